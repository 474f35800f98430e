"""What a search starts from: a vector, a stored point, or an image that is embedded first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.api.cancellation import cancel_on_disconnect
from service.api.dependencies import check_fingerprint, count_stages, get_service
from service.api.requests import Target
from service.embedding.embedder import Embedded
from service.errors import ItemsRefused
from service.http.bodies import decode_base64, float32
from service.library.library import Collection


@dataclass(frozen=True)
class Start:
    """A resolved target: its vector [D], and the id to leave out of the answer where it is a stored point."""

    vector: NDArray[np.float32]
    id: str | None = None


Starts = Callable[
    [], list[Start]
]  # for the thread that searches: stored points are looked up, and lists of numbers read


async def from_image(request: Request, collection: Collection, image: bytes, fingerprint: str | None) -> Starts:
    """Embed a raw image. Raises ImageRefused, FingerprintMismatch."""
    check_fingerprint(collection, fingerprint)
    [answer] = await _embed(request, collection, [image])
    if isinstance(answer, Exception):
        raise answer
    start = Start(answer.vector)
    return lambda: [start]


async def resolve(request: Request, collection: Collection, targets: Sequence[Target]) -> Starts:
    """Embed the images of JSON targets, all of them or none; what is returned resolves the targets, and raises PointMissing.

    Raises:
        FingerprintMismatch, ImageRefused: of the only target.
        ItemsRefused: images of several targets were refused.
    """
    for target in targets:
        check_fingerprint(collection, target.fingerprint)
    images = [await decode_base64(target.image) for target in targets if target.image is not None]
    answers = await _embed(request, collection, images) if images else []
    refused = [(index, answer) for index, answer in enumerate(answers) if isinstance(answer, Exception)]
    if refused:
        if len(targets) == 1:
            raise refused[0][1]
        raise ItemsRefused(
            f"{len(refused)} of {len(images)} images were refused; see errors, counted by image.", refused
        )
    embedded = iter([answer.vector for answer in answers if isinstance(answer, Embedded)])

    def starts() -> list[Start]:
        return [_start(collection, target, next(embedded) if target.image is not None else None) for target in targets]

    return starts


def _start(collection: Collection, target: Target, embedded: NDArray[np.float32] | None) -> Start:
    if embedded is not None:
        return Start(embedded)
    if target.vector is not None:
        return Start(float32(target.vector))
    assert target.id is not None
    stored = collection.point(target.id, with_vector=True).vector
    assert stored is not None
    return Start(stored, target.id)


async def _embed(request: Request, collection: Collection, images: Sequence[bytes]) -> Sequence[Embedded | Exception]:
    embedder = get_service(request).models.of(collection.fingerprint).embedder
    answers = await cancel_on_disconnect(request, embedder.embed_async(images))
    count_stages(request, answers)
    return answers
