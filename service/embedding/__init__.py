"""From the bytes of an image to its embedding: admission, decoders, batches, runtimes, and the models that are loaded.

It knows the artifact, and neither HTTP nor the store nor the index.
"""
