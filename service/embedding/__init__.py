"""Embedding, from the bytes of an image to its vector: admission, decoders, batches, runtimes, and the models that are loaded.

It knows the artifact, and neither HTTP nor the store nor the index.

Tested elsewhere: `pipeline` in tests/service/embedding/test_embedder.py; `decoder_worker` in
tests/service/embedding/test_decoder_pool.py; `runtime`, `runtime_openvino` and `runtime_torch` in
tests/service/embedding/test_runtime_choice.py.
"""
