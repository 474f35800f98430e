"""Commands of dinodex as a person meets them: what a run of one gives, and what its errors look like."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[
    ..., tuple[int, str, str]
]  # the fixture `run` of tests/dinodex: exit code, standard output, standard error


def is_one_sentence(text: str) -> bool:
    return text.startswith("dinodex: ") and text.count("\n") == 1 and "Traceback" not in text
