"""The vector index, derived from the store and rebuildable: segments, exact and approximate search, the planner, files.

It knows vectors and rows alone: no SQL, no payload, no id.
"""
