"""The HTTP front: connections, keys, limits of bodies, problem answers, the request log, bodies to plain values.

It knows requests and callers, and nothing of images, points or collections.
"""
