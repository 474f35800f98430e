"""Tools for threads, processes and the event loop: queues, combining of calls, priorities, cooperative yielding.

They know nothing of dinodex: no image, no point, no request.
"""
