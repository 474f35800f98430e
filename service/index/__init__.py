"""The vector index, derived from the store and rebuildable: segments, exact and approximate search, the planner, files.

It knows vectors and rows alone: no SQL, no payload, no id.

Tested elsewhere: `build_worker`, `hashed_files` and `positions` in tests/service/index/test_approximate.py;
`faiss_threads` in tests/service/index/test_vector_index.py; `planner` in tests/service/index/test_segments.py and
tests/service/index/test_approximate.py; `segment_files` in tests/service/index/test_segments.py.
"""
