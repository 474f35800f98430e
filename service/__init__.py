"""The service: embeds, finds, classifies and clusters images over REST, and indexes folders of them.

At this level stand the process (`serve`), the wiring (`app`) and what all rooms share (`settings`, `points`, `errors`, `metrics`).
The rooms are `api`, `ingestion`, `library`, `analysis`, `store`, `index`, `embedding`, `http` and `concurrency`; each knows those below
it only.
"""
