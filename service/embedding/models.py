"""The loaded models of a service. The first is the default; a collection is bound to one by its fingerprint."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from backbone.artifact import Artifact, load_artifact
from backbone.decode import DecodeLimits
from backbone.machine import usable_cores
from backbone.pooling import reads_patches
from service.concurrency.thread_priority import run_at_low_priority
from service.embedding.admission import AdmissionLimits
from service.embedding.embedder import Embedder
from service.embedding.runtime_choice import Choice, choose_runtime, warm_up
from service.errors import DeadlinePassed, FingerprintMismatch, ModelMissing, SettingsInvalid
from service.metrics import Metrics
from service.settings import Settings

WARM_UP_S: Final = 3.0  # of a start: enough for every batch size of a small network
ATTENTION_WAIT_S: Final = 30.0  # that a picture waits for those before it, which take part of a second each


@dataclass(frozen=True)
class LoadedModel:
    """An artifact that passed its self-test, and the embedder in front of it."""

    artifact: Artifact
    choice: Choice
    embedder: Embedder
    _attention_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def fingerprint(self) -> str:
        """Return what binds collections to this model."""
        return self.artifact.fingerprint

    @property
    def architecture(self) -> str:
        """Return the architecture's name."""
        return str(self.artifact.architecture)

    @property
    def name(self) -> str:
        """Return a short name that tells models apart: the architecture and the first letters of the fingerprint."""
        return f"{self.architecture}-{self.fingerprint[:12]}"

    async def attention(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what CLS attends to in the last block, [heads, N], for an image as the network is shown it, [crop, crop, 3].

        One image at a time. Raises NoAttention, DeadlinePassed.
        """
        try:
            await asyncio.wait_for(self._attention_lock.acquire(), ATTENTION_WAIT_S)
        except TimeoutError:
            raise DeadlinePassed(
                "too many pictures of attention are asked for at once; come back in some seconds."
            ) from None
        try:
            pixels = self.artifact.preprocess.normalised(square)[None]
            return (await anyio.to_thread.run_sync(self.choice.runtime.attention, pixels))[0]
        finally:
            self._attention_lock.release()


class Models:
    """All loaded models, looked up by fingerprint."""

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        self._models = {model.fingerprint: model for model in models}

    @property
    def default(self) -> LoadedModel:
        """Return the model that answers where no collection says which."""
        return next(iter(self._models.values()))

    def all(self) -> list[LoadedModel]:
        """Return the loaded models, the default one first."""
        return list(self._models.values())

    def named(self, name: str) -> LoadedModel:
        """Return the model with this name or fingerprint. Raises ModelMissing."""
        for model in self._models.values():
            if name in (model.name, model.fingerprint):
                return model
        raise ModelMissing(f"no loaded model is called {name[:128]!r}; GET /v1/models lists them.")

    def asked(self, name: str | None) -> LoadedModel:
        """Return the model with this name or fingerprint, or the default one for None. Raises ModelMissing."""
        return self.default if name is None else self.named(name)

    def loaded(self, fingerprint: str) -> bool:
        """Say whether the model with this fingerprint is there."""
        return fingerprint in self._models

    def of(self, fingerprint: str) -> LoadedModel:
        """Return the model with this fingerprint.

        Raises:
            FingerprintMismatch: it is not loaded.
        """
        try:
            return self._models[fingerprint]
        except KeyError:
            raise FingerprintMismatch(
                f"the model {fingerprint[:12]} is not loaded (this service has {', '.join(f[:12] for f in self._models)}); "
                "send ready vectors, or start the service with that artifact."
            ) from None

    async def ready(self) -> bool:
        """Say whether every model would compute what is sent now."""
        return all([await model.embedder.ready() for model in self._models.values()])

    def trouble(self) -> str | None:
        """Return why images cannot be decoded, in words for strangers; None where nothing is known."""
        return next((trouble for model in self.all() if (trouble := model.embedder.trouble)), None)


@contextmanager
def load_models(settings: Settings, metrics: Metrics) -> Iterator[Models]:
    """Load the artifacts one after the other; close them in the end.

    Raises:
        SettingsInvalid: the same model is named twice.
        BackboneError: as `load_model`.
    """
    with ExitStack() as loaded:
        models: list[LoadedModel] = []
        for path in settings.artifact:
            model = load_model(settings, path, metrics=metrics)
            loaded.callback(model.embedder.close)
            if any(model.fingerprint == other.fingerprint for other in models):
                raise SettingsInvalid(
                    f"the artifact {path} is a model that another one is already; name each model once."
                )
            # Here and not in `load_model`: the job has no caller who would wait for a batch size's first time.
            run_at_low_priority(functools.partial(_warm_up, model, settings.batch_images))
            models.append(model)
        yield Models(models)


def _warm_up(model: LoadedModel, batch_images: int) -> None:
    patches = reads_patches(model.artifact.manifest.pooling)
    warm_up(model.choice.runtime, model.artifact.preprocess.crop, patches, batch_images, WARM_UP_S)


def load_model(
    settings: Settings, path: Path, limits: DecodeLimits | None = None, metrics: Metrics | None = None
) -> LoadedModel:
    """Load and verify the artifact in directory `path`, and start it.

    Raises:
        BackboneError: the artifact is missing or damaged, and as `start_model`.
    """
    return start_model(settings, replace(load_artifact(path), value_range=settings.value_range), limits, metrics)


def start_model(
    settings: Settings, artifact: Artifact, limits: DecodeLimits | None = None, metrics: Metrics | None = None
) -> LoadedModel:
    """Choose the runtime of a verified artifact and start its embedder.

    `limits` says what an image may cost where its owner, and not a stranger, hands it in; None takes the settings'.
    `metrics` counts what it does, where somebody looks.

    Raises:
        BackboneError, SettingsInvalid: no runtime that is installed computes what the artifact was written with.
    """
    cores = usable_cores()
    choice = run_at_low_priority(
        lambda: choose_runtime(artifact, settings.runtime, settings.precision, settings.threads or cores)
    )
    embedder = Embedder(
        artifact,
        choice.runtime.run,
        streams=choice.runtime.streams,
        limits=limits or settings.decode_limits(),
        decode_workers=settings.decode_workers or cores,
        decode_timeout_s=settings.decode_timeout_s,
        batch_images=settings.batch_images,
        batch_wait_s=settings.batch_wait_ms / 1000,
        queue=AdmissionLimits(
            settings.queue_images, settings.queue_bytes, settings.embed_timeout_s, settings.queue_wait_s
        ),
        thumbnail_px=settings.thumbnail_px,
        metrics=metrics or Metrics(),
    )
    return LoadedModel(artifact, choice, embedder)
