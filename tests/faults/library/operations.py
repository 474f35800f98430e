"""Long runs of random operations on a library and its dictionary."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.library.small import small
from faults.library.world import OPERATIONS, World


@dataclass
class Operated:
    """The figures of a run."""

    made: dict[str, int]
    seconds: float
    recall: float

    def __str__(self) -> str:
        made = ", ".join(f"{name} {count:,}" for name, count in self.made.items())
        return (
            f"{sum(self.made.values()):,} operations in {self.seconds:.0f} s ({sum(self.made.values()) / self.seconds:.0f}/s): every"
            f" answer as the dictionary's ({made}); recall of searches that need not be exact {self.recall:.5f}"
        )


def operate(directory: Path, operations: int, seed: int) -> Operated:
    """Make that many operations, drawn from the seed; raise AssertionError, naming seed and step, at the first wrong answer."""
    draw, began = Random(seed), time.monotonic()
    made = {operation.__name__: 0 for operation in OPERATIONS}
    with small():
        world = World(directory)
        for step in range(operations):
            [operation] = draw.choices(list(OPERATIONS), list(OPERATIONS.values()))
            made[operation.__name__] += 1
            try:
                operation(world, draw)
                if step % 20 == 0:
                    world.counts_agree()
            except Exception as error:
                raise AssertionError(f"seed {seed}, step {step}: {operation.__name__}") from error
        world.close()
    return Operated(made, time.monotonic() - began, world.found / max(world.wanted, 1))
