"""The ASGI application, wired from its settings. What is open while it runs is in `lifespan`.

Around the framework, from the outside: the prefix of a proxy (`paths`); request id and log (`request_log`); who is let in (`gate`: the
key, the end of the service, room for what is asked); the last answers of a service that stops (`draining`); bodies in gzip
(`content_coding`); the limits of a body (`body_limits`); paths as they were sent (`paths`); the shape of 413.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

import structlog
from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from service.api import openapi
from service.api.dependencies import name_model
from service.api.routes import (
    analysis,
    clusterings,
    collections,
    embed,
    evaluation,
    health,
    jobs,
    openai,
    points,
    points_bulk,
    search,
    visualize,
)
from service.http import problems, traces
from service.http.auth import KeyCheck
from service.http.body_limits import BodyLimits
from service.http.content_coding import ContentCoding
from service.http.draining import ClosingAnswers, Drain
from service.http.gate import Gate
from service.http.keyring import Keyring
from service.http.paths import RawPath, RootPath
from service.http.problems import TooLargeAsProblem
from service.http.rate_limit import RateLimiter
from service.http.request_log import DOCS_PATH, RequestLog
from service.http.request_memory import RequestMemory
from service.lifespan import open_service
from service.load_shedding import overload_refusal
from service.memory_budget import memory_budget
from service.metrics import Metrics
from service.settings import Settings

log = structlog.get_logger("service")


class Application(FastAPI):
    """FastAPI inside the layers that must also see what FastAPI's own outer layers answer."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.spans = traces.configured_provider()
        self.request_memory = RequestMemory(settings.request_memory_bytes)
        self.drain = Drain()
        self._keyring = Keyring(settings)
        super().__init__(
            title="dinodex",
            description="Embeds, finds, classifies and clusters images with a DINO backbone of your own.",
            lifespan=_lifespan,
            dependencies=[Depends(name_model)],
            max_body_size=settings.max_body_bytes,
            redirect_slashes=False,  # a redirect would send the body, and the key, a second time
            docs_url=DOCS_PATH,
            redoc_url=None,
            telemetry=traces.telemetry(self.spans),
        )

    def build_middleware_stack(self) -> ASGIApp:
        """Return the whole application."""
        inner = RawPath(TooLargeAsProblem(super().build_middleware_stack()))
        limited = BodyLimits(inner, self.request_memory, self.settings.max_body_bytes, self.settings.body_timeout_s)
        decoded = ContentCoding(limited, self.settings.max_body_bytes)
        key_check = KeyCheck(self._keyring, RateLimiter(self.settings.rate_per_s))
        # In this order: who has no key learns nothing of the service, and who is told that it stops need not ask for room.
        gate = Gate(ClosingAnswers(decoded, self.drain), key_check, self.drain.refusal, overload_refusal)
        return RootPath(RequestLog(gate, self.metrics), self.settings.root_path)


def create_app(settings: Settings) -> Application:
    """Return the application; what it needs is opened when it starts.

    Raises:
        SettingsInvalid: no key, and no permission to go without.
    """
    app = Application(settings)
    for module in (
        health,
        embed,
        visualize,
        openai,
        collections,
        points_bulk,
        points,
        search,
        evaluation,
        clusterings,
        analysis,
        jobs,
    ):
        app.include_router(module.router)
    problems.install(app)
    openapi.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    assert isinstance(app, Application)
    with open_service(app.settings, app.metrics) as service:
        app.state.service = service
        for model in service.models.all():
            log.info(
                "model_loaded",
                model=model.name,
                fingerprint=model.fingerprint,
                runtime=model.choice.runtime.name,
                precision=model.choice.runtime.precision,
                reason=model.choice.reason,
                self_test_cosine=round(model.choice.cosine, 6),
            )
        budget = memory_budget(app.settings, service.models.all())
        app.metrics.watch("memory_ceiling_bytes", "The most memory that the service takes.", lambda: budget.total)
        app.metrics.watch(
            "request_memory_bytes", "What requests hold of theirs.", lambda: app.request_memory.held_bytes
        )
        log.info(
            "ready",
            models=len(service.models.all()),
            memory_ceiling_bytes=budget.total,
            memory_ceiling=asdict(budget),
        )
        yield
    if app.spans is not None:
        app.spans.shutdown()  # sends what is left
