"""The API: requests and responses as models, the OpenAPI document, the dependencies of routes, and the routes themselves.

It knows every room but the index, which the collections ask; nothing but the wiring knows it.

Tested elsewhere: `dependencies` in tests/service/api/routes/test_points.py and tests/service/api/routes/test_embed.py;
`openapi` and `openapi_schemas` in tests/service/api/test_openapi_examples.py; `query_vectors` in
tests/service/api/routes/test_search.py; `requests` in tests/service/api/test_bad_input.py and
tests/service/api/test_text_input.py; `scopes` in tests/service/http/test_auth.py.
"""
