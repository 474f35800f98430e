"""Tools of concurrency, for threads, processes and the event loop: queues, combining of calls, priorities, cooperative yielding.

They know nothing of dinodex: no image, no point, no request.

Tested elsewhere: `child_process` in tests/service/analysis/test_hdbscan.py and tests/service/index/test_approximate.py;
`cooperative` in tests/service/api/test_loop_lag.py.
"""
