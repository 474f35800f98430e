"""The API: requests and responses as models, the OpenAPI document, the dependencies of routes, and the routes themselves.

It knows the library, the analyses, the embedding and the HTTP front; nothing but the wiring knows it.
"""
