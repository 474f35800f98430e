"""Routes: thin handlers that read a request, ask the library or the embedder in a thread, and shape the answer.

Tested elsewhere: `collections` and `points_bulk` in tests/service/api/routes/test_points.py; `health` in
tests/service/test_app.py; `jobs` in tests/service/api/routes/test_analysis.py and
tests/service/api/routes/test_clusterings.py; `visualize` in tests/service/embedding/test_visualize.py.
"""
