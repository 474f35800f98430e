"""One service over HTTP: requests out, typed answers or typed errors back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from dinodex.errors import (
    AnswerInvalid,
    Conflict,
    FileUnreadable,
    KeyInvalid,
    NotAllowed,
    NotFound,
    RequestRefused,
    ServiceUnreachable,
    Unavailable,
)
from dinodex.transport import ProxyOfEnvironment, transport_to

ImageLike = bytes | str | os.PathLike[str]  # encoded bytes, or the path of a file on this side
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

CHUNK_IMAGES = 16  # images a request: below the service's 64, and 64 MiB hold 16 large photographs

_KINDS: dict[int, type[RequestRefused]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    429: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: Unavailable,
}


class Connection:
    """Connections to one service, safe to use from several threads."""

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        key = _sendable(api_key or "")
        headers = [(b"Authorization", b"Bearer " + key)] if key else []  # bytes: a key may be any UTF-8
        try:
            address = httpx.URL(url)
            self._proxy: ProxyOfEnvironment | None = None
            if transport is None:
                transport, self._proxy = transport_to(address)
            self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout_s, transport=transport)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            shown = url.rpartition("@")[2]  # as below: without a password
            raise ServiceUnreachable(f"{shown!r} is not an address; write it as http://127.0.0.1:8000.") from error
        # As errors have it: a password is nobody's business.
        self._name = str(self._http.base_url.copy_with(userinfo=b""))

    def ask(self, method: str, path: str, answer: type[M], **request: Any) -> M:  # noqa: ANN401 - httpx's own arguments
        """Send a request and read its JSON answer as `answer`."""
        return read_as(answer, self.ask_object(method, path, **request)[1])

    def ask_list(self, method: str, path: str, item: type[M], **request: Any) -> list[M]:  # noqa: ANN401
        """Send a request and read the `result` of its JSON answer as a list of `item`."""
        found = self.ask_object(method, path, **request)[1].get("result")
        if not isinstance(found, list):
            raise AnswerInvalid("the service's answer has no result; is it a dinodex service?")
        return [read_as(item, entry) for entry in found]

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401
        """Send a request.

        Raises:
            ServiceUnreachable: there is no answer.
            RequestRefused: the answer is an error.
        """
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(f"{self._name} did not answer in time{self._by_way}; is it overloaded?") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServiceUnreachable(
                f"{self._name} cannot be reached{self._by_way} ({error}); is the service up?"
            ) from error
        if answer.is_error:
            raise _refusal(answer, self._by_way)
        return answer

    @property
    def _by_way(self) -> str:
        """Return what an error says of the way to the service, where that is not a straight one."""
        return "" if self._proxy is None else f" through {self._proxy}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask_object(self, method: str, path: str, **request: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401
        """Send a request; return the status of its answer, and the answer as a JSON object."""
        answer = self.send(method, path, **request)
        try:
            found = answer.json()
        except ValueError as error:
            raise AnswerInvalid(
                f"the service answered{self._by_way} something other than JSON; is it a dinodex service?"
            ) from error
        if not isinstance(found, dict):
            raise AnswerInvalid("the service's answer is not an object; is it a dinodex service?")
        return answer.status_code, found


def _sendable(api_key: str) -> bytes:
    """Return a key as it is sent: without a byte-order mark, which does not show where it was copied from. Raises KeyInvalid."""
    key = api_key.strip("\ufeff \t\r\n")
    if any((character < " " and character != "\t") or character == "\x7f" for character in key):
        raise KeyInvalid("the API key has a line break or another control character; give the key alone, as one line.")
    return key.encode(errors="surrogateescape")


def encode_id(point_id: str) -> str:
    """Percent-encode an id or a name so that it is one segment of a path, dots at its start included."""
    encoded = quote(point_id, safe="")
    return encoded.replace(".", "%2E") if encoded.strip(".") == "" else encoded


def image_part(image: ImageLike) -> dict[str, Any]:
    """Return the arguments of a request whose body is one raw image."""
    return {"content": image_bytes(image), "headers": {"Content-Type": "image/*"}}


def in_chunks(items: Sequence[T], size: int = CHUNK_IMAGES) -> Iterator[tuple[int, Sequence[T]]]:
    """Cut a list into the parts that one request carries, each with the position of its first item."""
    for start in range(0, len(items), size):
        yield start, items[start : start + size]


def image_bytes(image: ImageLike) -> bytes:
    """Return the encoded bytes of an image, reading the file where a path is given."""
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise FileUnreadable(f"cannot read {image}: {error.strerror}; check the path.") from error


def read_as(model: type[M], data: object) -> M:
    """Return a part of an answer as a model. Raises AnswerInvalid."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise AnswerInvalid(f"the service's answer is not a {model.__name__}; is it a dinodex service?") from error


def _refusal(answer: httpx.Response, by_way: str) -> RequestRefused:
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    kind = _KINDS.get(answer.status_code, RequestRefused)
    return kind(
        str(
            problem.get("detail")
            or problem.get("title")
            or f"the service answered{by_way} with status {answer.status_code}."
        ),
        status=answer.status_code,
        code=str(problem.get("code", "")),
        errors=problem.get("errors") if isinstance(problem.get("errors"), list) else None,
        retry_after_s=problem.get("retry_after_s"),
        request_id=answer.headers.get("x-request-id"),
    )
