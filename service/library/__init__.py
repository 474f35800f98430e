"""Collections: store and index as one thing, with searches, the background builder and jobs.

It alone knows both the store, which is the truth, and the index, which is derived from it; it knows nothing of HTTP.

Tested elsewhere: `builder` and `recovery` in tests/service/index/test_segments.py; `class_sizes` in
tests/service/api/routes/test_evaluation.py; `collection` and `search` in tests/service/library/test_library.py;
`filter_cache` and `snapshot` in tests/service/library/test_library_oracle.py.
"""
