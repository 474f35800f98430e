"""The routes: thin handlers that read a request, ask the library or the embedder in a thread, and shape the answer."""
