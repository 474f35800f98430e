"""The store, which is the truth: points, vectors, pictures, clusterings and jobs in SQLite, with migrations and backup.

It knows SQL and points, and nothing of the index that is derived from it.
"""
