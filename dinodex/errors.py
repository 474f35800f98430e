"""The errors of the client, as one tree.

ClientError
├── FileUnreadable         an image or a key file on this side cannot be read
├── KeyInvalid             a key that no header can carry
├── ServiceUnreachable     no answer: wrong address, service down, or too slow
├── AnswerInvalid          an answer that is not dinodex's
└── RequestRefused         the service answered with an error; `status`, `code`, `errors` and `retry_after_s` say which
    ├── NotAllowed         401 and 403: the key is missing, wrong, or has too little scope
    ├── NotFound           404: no such collection, point, clustering or job
    ├── Conflict           409: other content, other fingerprint, an empty collection
    ├── Unavailable        429, 503, 504, 507: try again later, after `retry_after_s` where it is given
    └── JobFailed          a job ended without a result
"""

from __future__ import annotations

from typing import Any


class ClientError(Exception):
    """The root of the client's errors."""


class FileUnreadable(ClientError):
    """An image or a key file on this side cannot be read."""


class KeyInvalid(ClientError):
    """A key that no header can carry."""


class ServiceUnreachable(ClientError):
    """No answer: wrong address, service down, or too slow."""


class AnswerInvalid(ClientError):
    """An answer that is not dinodex's."""


class RequestRefused(ClientError):
    """The service answered with an error."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "",
        errors: list[dict[str, Any]] | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.errors = errors or []
        self.retry_after_s = retry_after_s
        self.request_id = request_id


class NotAllowed(RequestRefused):
    """The key is missing, wrong, or has too little scope."""


class NotFound(RequestRefused):
    """No such collection, point, clustering or job."""


class Conflict(RequestRefused):
    """The request contradicts what is stored."""


class Unavailable(RequestRefused):
    """The service cannot answer now."""


class JobFailed(RequestRefused):
    """A job ended without a result."""
