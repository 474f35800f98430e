"""The failures of a run's processes, which the libraries below raise in words of their own, as this package's errors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.distributed import DistError

from training.distributed import world_size
from training.errors import LoadingFailed, PeerLost

# PyTorch raises RuntimeError for all of these, and tells them apart in words only.
_LOADER = ("DataLoader worker", "shared memory", "Bus error")
_PEER = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
    "connection refused",
    "timed out",
    "timeout",
    "broken pipe",
)


@contextmanager
def named_failures(trainer: Trainer) -> Iterator[None]:
    """Raise LoadingFailed or PeerLost for what a lost process causes; the processes that this one started are then ended too."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        message = str(error)
        if _is_of_the_loader(error):
            _end_children(trainer)
            raise LoadingFailed(
                "a process that loads images was ended, most often because memory ran out (in a container, shared memory: "
                "give it more with --shm-size); take fewer workers, then go on with --resume."
            ) from error
        if not isinstance(error, RuntimeError):
            raise
        # Before they have met there is no group yet, but the error has a type of its own.
        several = world_size() > 1 or isinstance(error, DistError)
        if several and any(mark in message.lower() for mark in _PEER):
            _end_children(trainer)
            raise PeerLost(
                "another process of the run was ended or did not answer in time (peer_timeout_s); look at what it said last, then "
                "start all processes again with --resume."
            ) from error
        raise


def _is_of_the_loader(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return any(mark in str(error) for mark in _LOADER)
    # A batch lies in memory that its loader process hands over by a socket, and that ended in between.
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "multiprocessing.resource_sharer" for frame, _ in frames)


def _end_children(trainer: Trainer) -> None:
    """A process that is stopped or waits for a lost one would stay for ever."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        for process in launcher.procs:
            process.kill()
