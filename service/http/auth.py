"""Authentication by API key: closed by default, in two places.

Every request needs a key but those to `/livez` and `/readyz`; also one for a route that does not exist, so that nothing about the
service can be learned without it (`KeyCheck`, the first check of the gate). A key of scope `read` opens what changes nothing: GET, and
what is marked `@reads`; all else needs `write` (`ScopedRoute`, the class of every route). Both answer before the body is read.
"""

from __future__ import annotations

import math
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import TooManyRequests, Unauthorized
from service.http.keyring import Keyring
from service.http.rate_limit import RateLimiter
from service.http.request_state import request_state

OPEN_PATHS: Final = frozenset({"/livez", "/readyz"})  # what an orchestrator asks, which has no key


class KeyCheck:
    """A check of the gate: refuses whatever does not carry a valid key, and a key that asks too often."""

    def __init__(self, keyring: Keyring, rate_limiter: RateLimiter) -> None:
        self._keyring = keyring
        self._rate_limiter = rate_limiter

    def __call__(self, scope: Scope) -> Unauthorized | TooManyRequests | None:
        """Return why a request or a websocket is refused; None where it may go on, and its state then says whose it is."""
        if scope["path"] in OPEN_PATHS:
            return None
        key = self._keyring.find(_presented(scope))
        if key is None:
            return Unauthorized(
                "a valid API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
        state = request_state(scope)
        state.key, state.key_scope = key.name, key.scope
        if wait_s := self._rate_limiter.wait_s(key.name):
            return TooManyRequests("this key asks too often; slow down.", retry_after_s=math.ceil(wait_s))
        return None


def _presented(scope: Scope) -> list[bytes]:
    """Return the keys that a request carries, in either header, as they were sent."""
    headers = Headers(scope=scope)
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
    return [key.encode("latin-1") for key in found if key]
