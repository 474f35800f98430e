"""The service: embeds, finds, classifies and clusters images over REST, and indexes folders of them.

At this level stand the process (`serve`), the wiring (`app`) and what all rooms share (`settings`, `points`, `errors`, `metrics`);
the rooms are `api`, `ingestion`, `library`, `analysis`, `store`, `index`, `embedding`, `http` and `concurrency`; each knows those below
it only.

Tested elsewhere: `errors` in tests/service/http/test_problems.py; `lifespan` in tests/service/test_app.py;
`memory_budget` in tests/service/test_metrics.py; `serve` in tests/service/test_app.py and
tests/service/http/test_draining.py; `settings_docs` in tests/dinodex/test_docs.py.
"""
