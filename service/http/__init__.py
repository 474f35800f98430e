"""The HTTP front: connections, keys, limits of bodies, problem answers, the request log, bodies to plain values.

It knows requests and callers, and nothing of images, points or collections.

Tested elsewhere: `bodies` in tests/service/http/test_body_limits.py and tests/service/http/test_large_json.py;
`json_parts` in tests/service/http/test_large_json.py; `keyring` in tests/service/http/test_keys.py and
tests/service/http/test_auth.py; `request_log` in tests/service/test_app.py; `request_memory` in
tests/service/http/test_body_limits.py.
"""
