"""Health routes: liveness, readiness, metrics, and the model."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from backbone.pooling import POOLINGS
from service.api.dependencies import ModelDep, get_service
from service.api.openapi import problems
from service.api.responses import ModelAnswer, StatusAnswer
from service.api.scopes import ScopedRoute
from service.embedding.embedder import PATCHES

router = APIRouter(tags=["health"], route_class=ScopedRoute)


@router.head("/livez", include_in_schema=False)  # some load balancers ask so
@router.get(
    "/livez",
    response_model_exclude_none=True,
    responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
    openapi_extra={"security": []},
)
async def livez() -> StatusAnswer:
    """Say that the process answers."""
    return StatusAnswer(status="ok")


@router.head("/readyz", include_in_schema=False)  # some load balancers ask so
@router.get(
    "/readyz",
    response_model_exclude_none=True,
    responses={503: {"model": StatusAnswer}},
    openapi_extra={"security": []},
)
async def readyz(request: Request, response: Response) -> StatusAnswer:
    """Say whether requests sent now would be answered: self-test passed, store open, queue with room, not about to stop."""
    service = get_service(request)
    checks = {
        "self_test": True,  # a service whose self-test failed does not start
        "embedder": not request.app.drain.stopping and await service.models.ready(),
        "store": service.library.writable,
    }
    if all(checks.values()):
        return StatusAnswer(status="ready", checks=checks)
    response.status_code = 503
    response.headers["Retry-After"] = "1"
    return StatusAnswer(status="not ready", checks=checks, detail=service.models.trouble())


@router.get("/metrics", response_class=PlainTextResponse, responses=problems())
async def metrics(request: Request) -> Response:
    """Give the counters in Prometheus' text format."""
    return Response(request.app.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/v1/model", responses=problems(404))
async def model(model: ModelDep) -> ModelAnswer:
    """Describe a model that embeds."""
    manifest, runtime = model.artifact.manifest, model.choice.runtime
    return ModelAnswer(
        model=model.name,
        fingerprint=model.fingerprint,
        dimension=manifest.dimension,
        architecture=model.architecture,
        image_size=model.artifact.preprocess.crop,
        pooling=manifest.pooling,
        outputs=[*POOLINGS, PATCHES],
        runtime=runtime.name,
        runtime_reason=model.choice.reason,
        precision=runtime.precision,
        self_test_cosine=model.choice.cosine,
        licence=manifest.licence,
        lineage=manifest.lineage,
    )
