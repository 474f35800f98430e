"""Query vectors: the vector that a search starts from, as it was sent, of a stored point, or of an image that is embedded first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.api.cancellation import cancel_on_disconnect
from service.api.dependencies import check_fingerprint, count_stages, get_service
from service.api.requests import ClassifyParams, ClusterQueryParams, QueryParams, Target
from service.embedding.embedder import Embedded
from service.errors import ItemsRefused
from service.http.bodies import decode_base64, float32, read_image, read_json
from service.http.content_type import IMAGE, JSON, kind_of
from service.library.collection import Collection


@dataclass(frozen=True)
class QueryVector:
    """A vector [D], or the id of a stored point that has it and that the answer leaves out."""

    numbers: NDArray[np.float32] | list[float] | None = None
    id: str | None = None

    def read(self, collection: Collection) -> NDArray[np.float32]:
        """Return the vector, in the thread that searches: a point is looked up, a list of numbers read. Raises PointMissing."""
        if self.id is None:
            assert self.numbers is not None
            return float32(self.numbers)
        stored = collection.point(self.id, with_vector=True).vector
        assert stored is not None
        return stored


Body = TypeVar("Body", bound=Target)
Params = TypeVar("Params", QueryParams, ClassifyParams, ClusterQueryParams)  # of an image


async def read_target(
    request: Request, collection: Collection, model: type[Body], params: Params
) -> tuple[Body | Params, QueryVector]:
    """Return the options of a search and what it starts from: JSON of `model`, or an image whose options are `params` of the URL.

    Raises:
        FingerprintMismatch, ImageRefused.
    """
    if kind_of(request, JSON, IMAGE) == JSON:
        body = await read_json(request, model)
        [start] = await embed_targets(request, collection, [body])
        return body, start
    image = await read_image(request)
    check_fingerprint(collection, params.fingerprint)
    [answer] = await _embed(request, collection, [image])
    if isinstance(answer, Exception):
        raise answer
    return params, QueryVector(answer.vector)


async def embed_targets(request: Request, collection: Collection, targets: Sequence[Target]) -> list[QueryVector]:
    """Return what JSON targets start from; their images are embedded, all of them or none.

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
    return [QueryVector(next(embedded) if target.image is not None else target.vector, target.id) for target in targets]


async def _embed(request: Request, collection: Collection, images: Sequence[bytes]) -> Sequence[Embedded | Exception]:
    embedder = get_service(request).models.of(collection.fingerprint).embedder
    answers = await cancel_on_disconnect(request, embedder.embed_async(images))
    count_stages(request, answers)
    return answers
