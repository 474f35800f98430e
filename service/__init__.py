"""The service: embeds, finds, classifies and clusters images over REST, and indexes folders of them.

At this level stand the process (`serve`), the wiring (`app`), what is open (`lifespan`), refused (`load_shedding`) and held in memory
(`memory_budget`), and words that rooms share (`settings`, `key_text`, `points`, `errors`, `metrics`); the rooms are `api`, `ingestion`,
`library`, `analysis`, `concurrency`, and `store`, `index`, `embedding` and `http`, which do not know each other; each knows those below
it.

Tested elsewhere: `errors` in tests/service/http/test_problems.py; `lifespan` in tests/service/test_app.py;
`memory_budget` in tests/service/test_metrics.py; `serve` in tests/service/test_app.py and
tests/service/http/test_draining.py; `settings_docs` in tests/dinodex/test_docs.py.
"""
