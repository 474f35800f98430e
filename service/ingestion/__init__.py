"""Points on their way in, from a request or from a folder: embedded where they are new, and stored.

It knows the library and the embedding, and nothing of HTTP.

Tested elsewhere: `incoming`, `refusal_report` and `sinks` in tests/service/ingestion/test_job.py.
"""
