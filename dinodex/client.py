"""The typed synchronous client: `from dinodex import Client`. It needs numpy, httpx and pydantic only.

with Client("http://127.0.0.1:8000", api_key="...") as client:
    vectors = client.embed(["cat.jpg"])  # [1, D], rows of length one
    hits = client.collection("photos").query(image="cat.jpg", limit=5)
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import httpx
import numpy as np
from numpy.typing import NDArray

from dinodex.answers import CollectionStats, Model
from dinodex.collection import Collection
from dinodex.connection import Connection, ImageLike, image_bytes, in_chunks
from dinodex.errors import AnswerInvalid, RequestRefused, ServiceUnreachable, Unavailable

TIMEOUT_S = 60.0  # a batch of large photographs on a small CPU; the service refuses earlier by its own deadline
POLL_S = 0.1  # between two looks at /readyz


class Client:
    """A connection to one service; safe to use from several threads, and a context manager."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: where the service is, such as `http://127.0.0.1:8000`.
            api_key: sent as `Authorization: Bearer`.
            timeout_s: how long to wait for an answer.
            transport: another way to reach the service (tests run it in process).
        """
        self._connection = Connection(url, api_key, timeout_s, transport)

    def model(self) -> Model:
        """Return what the service embeds with."""
        return self._connection.ask("GET", "/v1/model", Model)

    def embed(
        self, images: ImageLike | Sequence[ImageLike], *, output: str | None = None, model: str | None = None
    ) -> NDArray[np.float32]:
        """Embed images, all or nothing; many go in several requests.

        Args:
            images: encoded bytes or paths, one or many.
            output: `cls`, `mean`, `cls+mean` or `patches`; the model's own pooling where it is None.
            model: name or fingerprint of a loaded model; the service's default one where it is None.

        Returns:
            [n, D] float32, rows of length one; for `patches` [n, N, D].

        Raises:
            RequestRefused: an image was refused; `errors` says which and why.
        """
        many = [images] if isinstance(images, (bytes, str, os.PathLike)) else list(images)
        if not many:
            raise ValueError("give at least one image")
        parts = []
        for start, chunk in in_chunks(many):
            try:
                parts.append(self._embed(chunk, output, model))
            except RequestRefused as refusal:
                for item in refusal.errors:  # counted from the first image of this call, not of the request
                    item["index"] = start + int(item.get("index", 0))
                raise
        return np.concatenate(parts)

    def collections(self) -> list[CollectionStats]:
        """List the collections."""
        return self._connection.ask_list("GET", "/v1/collections", CollectionStats)

    def collection(self, name: str) -> Collection:
        """Return a handle on the collection `name`, which need not exist yet."""
        return Collection(self._connection, name)

    def wait_until_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Return as soon as the service says that it is ready.

        Raises:
            ServiceUnreachable: it did not within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._connection.send("GET", "/readyz")
            except (ServiceUnreachable, Unavailable) as error:
                if time.monotonic() > deadline:
                    raise ServiceUnreachable(f"the service was not ready within {timeout_s:.0f} s: {error}") from error
                time.sleep(POLL_S)
            else:
                return

    def _embed(self, images: Sequence[ImageLike], output: str | None, model: str | None) -> NDArray[np.float32]:
        """Embed the images of one request."""
        files = [("files", (f"{i}", image_bytes(image))) for i, image in enumerate(images)]
        given = {"output": output, "model": model}
        params = {name: value for name, value in given.items() if value is not None}
        answer = self._connection.send(
            "POST", "/v1/embed", params=params, files=files, headers={"Accept": "application/x-npy;dtype=float32"}
        )
        try:
            return np.load(io.BytesIO(answer.content), allow_pickle=False)
        except ValueError as error:
            message = "the service answered something other than vectors; is it a dinodex service?"
            raise AnswerInvalid(message) from error

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
