"""The vector index, derived from the store and rebuildable: segments, exact and approximate search, the planner, files.

It knows vectors and rows alone: no SQL, no payload, no id.

Tested elsewhere: `build_worker`, `hashed_files` and `positions` in tests/service/index/test_approximate.py; `planner` in
tests/service/index/test_approximate.py and tests/service/library/test_builder.py; `segment_files` in
tests/service/library/test_builder.py; `segments` in tests/service/index/test_vector_index.py.
"""
