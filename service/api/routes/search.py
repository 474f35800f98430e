"""Search routes and classification: by vector, by a stored point, or by an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from service.analysis.voting import Voting
from service.api.cancellation import run_search
from service.api.dependencies import CollectionDep, get_service, parse_if_given
from service.api.openapi import body, problems, reference
from service.api.query_vectors import QueryVector, embed_targets, read_target
from service.api.requests import ClassifyBody, ClassifyParams, QueryBatchBody, QueryBody, QueryParams
from service.api.responses import ClassifyAnswer, HitAnswer, QueryAnswer, QueryBatchAnswer
from service.api.scopes import ScopedRoute, reads
from service.concurrency.cooperative import Yielder
from service.http.bodies import check_count, parse_object, read_json
from service.http.body_limits import hold
from service.http.content_type import json_only
from service.http.json_parts import PartsResponse, json_list
from service.library.search import SearchOptions
from service.points import Classification, Hit
from service.store.filters import Filter

router = APIRouter(prefix="/v1/collections/{c}", tags=["search"], route_class=ScopedRoute)

_HIT_BYTES = 1500  # of a result on its way into an answer, objects and text, with a payload of a few fields
_NUMBER_BYTES = 52  # the same of a number of a vector: 32 as an object, 20 as text
_HIT = TypeAdapter(HitAnswer)
_ERRORS = problems(400, 404, 409, 413, 415, 422, 503, 504)


@router.post(
    "/query",
    response_model=QueryAnswer,
    response_model_exclude_unset=True,
    responses=_ERRORS,
    openapi_extra=body(json=reference(QueryBody), image=True),
)
@reads
async def query(request: Request, collection: CollectionDep, params: Annotated[QueryParams, Query()]) -> Response:
    """Return the most similar points. A raw image body takes the options as query parameters, JSON carries them itself."""
    in_url = _filter_in_url(params)
    options, start = await read_target(request, collection, QueryBody, params)

    def work() -> list[list[Hit]]:
        vectors = [start.read(collection)]
        condition = in_url if isinstance(options, QueryParams) else parse_if_given(options.filter)
        return collection.query(vectors, options.limit, _options([start], options, condition))

    [hits] = await run_search(request, work)
    return PartsResponse([b'{"result":', *await _written(hits, options), b"}"], "application/json")


@router.post(
    "/query/batch",
    response_model=QueryBatchAnswer,
    response_model_exclude_unset=True,
    dependencies=[Depends(json_only)],
    responses=_ERRORS,
    openapi_extra=body(json=reference(QueryBatchBody)),
)
@reads
async def query_batch(request: Request, collection: CollectionDep) -> Response:
    """Answer several searches; those that share their options are searched together."""
    settings = get_service(request).settings
    asked = await read_json(request, QueryBatchBody, settings.max_request_points)
    check_count(asked.queries, settings.max_request_points, "queries")
    check_count([q for q in asked.queries if q.image is not None], settings.max_request_images, "images")
    of_a_vector = _NUMBER_BYTES * collection.dimension
    hold(request, sum(each.limit * (_HIT_BYTES + each.with_vector * of_a_vector) for each in asked.queries))
    conditions = [parse_if_given(each.filter) for each in asked.queries]
    starts = await embed_targets(request, collection, asked.queries)
    groups: dict[str, list[int]] = {}
    for index, (each, condition) in enumerate(zip(asked.queries, conditions, strict=True)):
        # as text: equal filters may differ, for 1 == True
        options = f"{each.model_dump_json(exclude={'vector', 'id', 'image', 'fingerprint', 'filter'})} {condition!r}"
        groups.setdefault(options, []).append(index)

    def work() -> list[list[Hit]]:
        vectors = [start.read(collection) for start in starts]
        found: dict[int, list[Hit]] = {}
        for indices in groups.values():
            shared = asked.queries[indices[0]]
            options = _options([starts[i] for i in indices], shared, conditions[indices[0]])
            hits = collection.query([vectors[i] for i in indices], shared.limit, options)
            found |= zip(indices, hits, strict=True)
        return [found[index] for index in range(len(vectors))]

    found = await run_search(request, work, len(asked.queries))
    results = [await _written(hits, each) for hits, each in zip(found, asked.queries, strict=True)]
    return PartsResponse([b'{"results":', *json_list(results), b"}"], "application/json")


@router.post(
    "/classify",
    response_model=ClassifyAnswer,
    responses=_ERRORS,
    openapi_extra=body(json=reference(ClassifyBody), image=True),
)
@reads
async def classify(
    request: Request, collection: CollectionDep, params: Annotated[ClassifyParams, Query()]
) -> Classification:
    """Let the nearest labelled points vote, weighted as DINO's kNN is or as asked for. A stored point has no vote on itself."""
    in_url = _filter_in_url(params)
    options, start = await read_target(request, collection, ClassifyBody, params)

    def work() -> Classification:
        vector = start.read(collection)
        [answer] = collection.classify(
            [vector],
            options.k,
            Voting(options.temperature, options.weighting, options.balance),
            reject_below=options.reject_below,
            filter=in_url if isinstance(options, ClassifyParams) else parse_if_given(options.filter),
            exclude=None if start.id is None else [start.id],
            exact=options.exact,
        )
        return answer

    return await run_search(request, work)


def _filter_in_url(params: QueryParams | ClassifyParams) -> Filter | None:
    """Return the filter of an image's URL. With a JSON body it does not count, and is checked as the other options there are."""
    return parse_if_given(parse_object("filter", params.filter))


def _options(
    starts: Sequence[QueryVector], options: QueryBody | QueryParams, condition: Filter | None
) -> SearchOptions:
    return SearchOptions(
        condition,
        score_threshold=options.score_threshold,
        with_payload=options.with_payload,
        with_vector=options.with_vector,
        exclude=[start.id for start in starts] if any(start.id is not None for start in starts) else None,
        exact=options.exact,
    )


async def _written(hits: Sequence[Hit], options: QueryBody | QueryParams) -> list[bytes]:
    """Return hits as the parts of a JSON list, with the fields that were asked for."""
    left_out = {
        name for name, asked in (("payload", options.with_payload), ("vector", options.with_vector)) if not asked
    }
    yielder, items = Yielder(), []
    for hit in hits:
        items.append([_HIT.dump_json(_HIT.validate_python(hit), exclude=left_out)])
        await yielder.yield_if_due()
    return json_list(items)
