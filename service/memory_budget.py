"""The memory budget: the most that the service takes, reckoned from its settings once everything is open, for the size of a container.

Collections come on top as they grow (their statistics say what each holds); so do, while they run, builds of indexes and clusterings,
which have processes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from backbone.artifact import WEIGHTS
from backbone.machine import peak_resident_bytes, usable_cores
from service.embedding.decoder_worker import memory_of_an_image
from service.embedding.models import LoadedModel
from service.settings import Settings

MiB: Final = 2**20
DECODER_BYTES: Final = 80 * MiB  # Python, numpy and Pillow without an image; measured 45 to 60
# What a forward pass holds at a time, as a multiple of its output; measured 12 for a ViT-S in OpenVINO:
PASS_FACTOR: Final = 32
# What OpenVINO takes for a second network, the one of pictures, as a multiple of the weights on disk; measured 2.4 for a ViT-S:
ATTENTION_FACTOR: Final = 3
SPARE_BYTES: Final = 512 * MiB  # searches, answers in socket buffers, and what allocators keep of what was freed


@dataclass(frozen=True)
class MemoryBudget:
    """Bytes by what takes them."""

    started: int  # the peak of the start: libraries, models, collections
    requests: int  # bodies and answers
    images: int  # decoded, until their pass
    passes: int
    attention: int  # the network of pictures, which is made when one is first asked for
    decoders: int  # processes of their own
    spare: int

    @property
    def total(self) -> int:
        """Return their sum."""
        return sum(asdict(self).values())


def memory_budget(settings: Settings, models: Sequence[LoadedModel]) -> MemoryBudget:
    """Return what the service takes at most with these models loaded."""
    processes = len(models) * (settings.decode_workers or usable_cores())
    return MemoryBudget(
        started=peak_resident_bytes(),
        requests=settings.request_memory_bytes,
        images=settings.queue_images * sum(_pixel_bytes(model) for model in models),
        passes=settings.batch_images * PASS_FACTOR * sum(_output_bytes(model) for model in models),
        attention=sum(_attention_bytes(model) for model in models),
        decoders=processes * (DECODER_BYTES + memory_of_an_image(settings.decode_limits())),
        spare=SPARE_BYTES,
    )


def _pixel_bytes(model: LoadedModel) -> int:
    """Return the size of a decoded image: its bytes, and the same as float32."""
    return 3 * model.artifact.preprocess.crop**2 * (1 + 4)


def _attention_bytes(model: LoadedModel) -> int:
    if model.choice.runtime.name != "openvino" or model.artifact.architecture.name != "vit":
        return 0
    return ATTENTION_FACTOR * (model.artifact.path / WEIGHTS).stat().st_size


def _output_bytes(model: LoadedModel) -> int:
    side = model.artifact.preprocess.crop
    tokens = model.choice.runtime.run(np.zeros((1, 3, side, side), np.float32), True)
    return sum(each.nbytes for each in tokens if each is not None)
