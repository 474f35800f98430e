"""Who may ask: one middleware in front of everything, closed by default.

Every request needs the key but those to `/livez` and `/readyz`; also one for a route that does not exist, so that nothing about the
service can be learned without it. The answer to a missing key is sent before a byte of the body is read.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from service.errors import SettingsInvalid, Unauthorized
from service.problems import problem_response
from service.settings import Settings

OPEN_PATHS = frozenset({"/livez", "/readyz"})  # what an orchestrator asks, which has no key


def key_digest(settings: Settings) -> bytes | None:
    """Return sha256 of the key that requests must present, or None for a service that is open to this machine.

    Raises:
        SettingsInvalid: no key and no permission to go without, or that permission on an address others can reach.
    """
    key = settings.key()
    if key is not None:
        return hashlib.sha256(key).digest()
    if not settings.allow_anonymous:
        raise SettingsInvalid(
            "no API key is configured; set DINODEX_API_KEY or DINODEX_API_KEY_FILE, "
            "or DINODEX_ALLOW_ANONYMOUS=1 to serve this machine alone without one."
        )
    if not settings.is_loopback():
        raise SettingsInvalid(
            f"without an API key the service listens on a loopback address only, and {settings.host} is none; "
            "set DINODEX_API_KEY, or listen on 127.0.0.1."
        )
    return None


class RequireKey:
    """ASGI middleware: answers 401 to whatever does not carry the key."""

    def __init__(self, app: ASGIApp, digest: bytes | None) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS or self._permitted(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            error = Unauthorized(
                "a valid API key is needed; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
            )
            await problem_response(Request(scope), error)(scope, receive, send)

    def _permitted(self, scope: Scope) -> bool:
        if self._digest is None:
            return True
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        presented = [headers.get("x-api-key", ""), bearer.strip() if scheme.lower() == "bearer" else ""]
        # Digests of equal length, both compared whatever the first says: the time taken tells nothing about the key.
        matches = [
            hmac.compare_digest(hashlib.sha256(key.encode("latin-1", "replace")).digest(), self._digest)
            for key in presented
        ]
        return any(matches)
