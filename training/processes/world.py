"""The world of a run: its processes, and this one among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class World:
    """The processes of a run, and this one among them."""

    size: int
    rank: int  # of all; the first one writes and speaks
    local_rank: int
    local_size: int  # processes on this machine, and on each other
    launcher: str | None = None  # who started this process; None: it starts the others of its machine itself
    address: str = LOOPBACK  # where all meet
    port: int = 0

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self.size // self.local_size

    @property
    def is_first(self) -> bool:
        """Say whether this is the process that writes and speaks."""
        return self.rank == 0


ALONE = World(1, 0, 0, 1)  # no launcher; the keys say how many processes this one starts


class Asked(NamedTuple):
    """The number of processes that the keys ask for."""

    devices: int | None  # on each machine; None: auto
    nodes: int
    here: int  # what auto is on this machine
    firm: bool = True  # no other number will do

    @property
    def size(self) -> int:
        """The number of processes on all machines."""
        return (self.devices or self.here) * self.nodes
