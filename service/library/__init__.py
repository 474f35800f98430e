"""Collections: store and index as one thing, with searches, the background builder and jobs.

It alone knows both the store, which is the truth, and the index, which is derived from it; it knows nothing of HTTP.
"""
