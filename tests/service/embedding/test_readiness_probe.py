from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from service.embedding.readiness_probe import ReadinessProbe

FIRST = np.array([1, 0], np.float32)


@pytest.mark.parametrize(
    ("second", "passes"),
    [(FIRST, True), (np.array([0.9995, 0.0316], np.float32), True), (FIRST[::-1], False), (None, False)],
)
def test_the_image_must_come_out_as_it_did_the_first_time(second: NDArray[np.float32] | None, passes: bool) -> None:
    vectors = iter([FIRST, second, FIRST])

    async def embed(image: bytes) -> NDArray[np.float32] | None:
        return next(vectors)

    async def main() -> list[bool]:
        probe = ReadinessProbe(embed)
        return [await probe.passes() for _ in range(3)]

    assert asyncio.run(main()) == [True, passes, True]


def test_probes_at_the_same_time_embed_one_image_and_one_that_leaves_takes_it_from_nobody() -> None:
    images: list[bytes] = []

    async def main() -> list[bool]:
        gate = asyncio.Event()

        async def embed(image: bytes) -> NDArray[np.float32]:
            images.append(image)
            await gate.wait()
            return FIRST

        probe = ReadinessProbe(embed)
        leaving, *others = [asyncio.create_task(probe.passes()) for _ in range(5)]
        await asyncio.sleep(0.01)
        leaving.cancel()
        gate.set()
        return await asyncio.gather(*others)

    assert asyncio.run(main()) == [True] * 4
    assert len(images) == 1
    assert images[0].startswith(b"\x89PNG")
