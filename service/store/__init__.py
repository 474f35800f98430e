"""The store, which is the truth: points, vectors, pictures, clusterings and jobs in SQLite, with migrations and backup.

It knows SQL and points, and nothing of the index that is derived from it.

Tested elsewhere: `connections` in tests/service/store/test_database.py; `cursors` in
tests/service/library/test_library.py; `integrity` in tests/service/store/test_backup.py; `migrations` in
tests/service/store/test_records.py and tests/service/store/test_database.py; `payloads` in
tests/service/store/test_filter_index.py and tests/service/test_points.py; `point_rows` and `stored_vectors` in
tests/service/store/test_records.py; `purge` in tests/service/store/test_filter_index.py.
"""
