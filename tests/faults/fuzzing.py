"""What the fuzzers share: their time, and what must hold of every answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from pictures import encoded, picture
from processes import MiB, ServiceProcess

FUZZ_S = float(os.environ.get("DINODEX_FUZZ_S", "120"))  # of each fuzzer; hours find more
ANSWERED_S = 10.0  # the decoder's deadline by default
MOST_GROWTH_BYTES = 512 * MiB  # of the whole family: no image here is large, and allocators keep some
CORPUS = Path(__file__).parent / "corpus"
GOOD = encoded(picture(200, 160))
_ROUND = 500  # examples between two looks at the clock


class Victim:
    """A service, its caller, and what it was like before."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=ANSWERED_S)
        self._vector = self._good()
        self._bytes = service.resident_bytes()

    def send(self, body: bytes, content_type: str, method: str = "POST", path: str = "/v1/embed") -> None:
        """Send a body: it is answered, or refused with what was wrong."""
        answer = self._client.request(method, path, content=body, headers={"content-type": content_type})
        if answer.status_code != 200:
            assert 400 <= answer.status_code < 500, answer.text
            found = answer.json()
            assert found.get("code") or found["error"]["code"], answer.text  # OpenAI's routes have OpenAI's shape

    def is_as_before(self) -> None:
        """Compare a good image's vector, and the memory."""
        np.testing.assert_array_equal(self._good(), self._vector)
        assert self._service.resident_bytes() < self._bytes + MOST_GROWTH_BYTES

    def close(self) -> None:
        """Close the caller's connection."""
        self._client.close()

    def _good(self) -> list[float]:
        answer = self._client.post("/v1/embed", content=GOOD, headers={"content-type": "image/png"})
        assert answer.status_code == 200, answer.text
        vector: list[float] = answer.json()["data"][0]["embedding"]
        return vector


def fuzz(strategy: SearchStrategy[Any], check: Callable[[Any], None], after: Callable[[], None]) -> int:
    """Check examples until the time is over, and `after` each few hundred; return how many there were."""
    end, tried = time.monotonic() + FUZZ_S, 0

    def one(example: object) -> None:
        nonlocal tried
        tried += 1
        check(example)

    rounds = settings(
        max_examples=_ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    while time.monotonic() < end:
        rounds(given(strategy)(one))()
        after()
    return tried
