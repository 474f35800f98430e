"""Collections: store and index as one thing, with searches, the background builder and jobs.

It joins the store, which is the truth, with the index, which is derived from it; it knows nothing of HTTP.

Tested elsewhere: `class_sizes` in tests/service/analysis/test_classification.py; `collection`, `search` and `snapshot` in
tests/service/library/test_library.py; `recovery` in tests/service/library/test_builder.py.
"""
