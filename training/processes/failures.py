"""The failures of a run's processes, which the libraries below raise in words of their own, as this package's errors."""

from __future__ import annotations

import multiprocessing
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch.distributed import DistError

from backbone.errors import BackboneError
from training.distributed import world_size
from training.errors import LoadingFailed, LoadingStopped, PeerLost, TrainingError
from training.loading import Loading
from training.processes.meeting import port_in_use
from training.processes.world import World

# PyTorch raises RuntimeError for all of these, and tells them apart in words only.
_LOADER = ("DataLoader worker", "shared memory", "Bus error", "Pin memory thread", "ancdata")
_PORT = ("address already in use", "eaddrinuse")
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
# How PyTorch passes on what was raised in a process or thread of a loader: with its trace, of which the last line says what it was.
_PASSED_ON = re.compile(r"Caught \w+ in (?:DataLoader worker process|pin memory thread).*?\.\nOriginal ", re.DOTALL)
_TYPE = re.compile(r"^[\w.]+: ")


@contextmanager
def named_failures(trainer: Trainer, world: World | None = None) -> Iterator[None]:
    """Raise LoadingFailed, CannotMeet or PeerLost for what a lost process causes; what this one started is then ended too."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except Exception as error:
        _end_loaders(before)
        if (named := _named(error, trainer, world)) is None:
            if isinstance(error, LoadingStopped):
                _end_children(trainer)
            raise
        _end_children(trainer)
        raise named from error


def _named(error: Exception, trainer: Trainer, world: World | None) -> Exception | None:
    if _PASSED_ON.match(str(error)):
        return _passed_on(error)
    if not isinstance(error, (RuntimeError, OSError, EOFError)):
        return None
    if _is_of_the_loader(error):
        return _lost_loader(trainer)
    if not isinstance(error, RuntimeError):
        return None
    message = str(error).lower()
    if isinstance(error, DistError) and any(mark in message for mark in _PORT):
        return port_in_use(world.port if world is not None else 0)
    # Before they have met there is no group yet, but the error has a type of its own.
    several = world_size() > 1 or isinstance(error, DistError)
    if several and any(mark in message for mark in _PEER):
        return PeerLost(
            "another process of the run was ended or did not answer in time (peer_timeout_s); look at what it said last, then "
            "start all processes again with --resume."
        )
    return None


def _passed_on(error: Exception) -> Exception:
    """An error of ours says what it said there; any other has failed the loader."""
    last = str(error).strip().splitlines()[-1].strip()
    if isinstance(error, (TrainingError, BackboneError)):
        return type(error)(_TYPE.sub("", last))
    return LoadingFailed(f"loading an image failed, {last}; remove its cause, then go on with --resume.")


def _lost_loader(trainer: Trainer) -> LoadingFailed:
    loading = getattr(trainer, "datamodule", None)
    if isinstance(loading, Loading) and (said := loading.last_words.heard()) is not None:
        return LoadingFailed(
            f"a process that loads images could not hand them over, {said}; remove its cause, or set workers=0, then go on with "
            "--resume."
        )
    return LoadingFailed(
        "a process that loads images was ended, most often because memory ran out (in a container, shared memory: "
        "give it more with --shm-size); take fewer workers, then go on with --resume."
    )


def _is_of_the_loader(error: Exception) -> bool:
    if isinstance(error, RuntimeError) and any(mark in str(error) for mark in _LOADER):
        return True
    # A batch lies in memory that its loader process hands over by a socket, and that ended in between.
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "multiprocessing.resource_sharer" for frame, _ in frames)


def _end_loaders(before: set[multiprocessing.process.BaseProcess]) -> None:
    """They ignore SIGTERM, which PyTorch ends them with; one that waits for something would be waited for at the very end."""
    for process in multiprocessing.active_children():
        if process not in before and process.daemon:
            process.kill()


def _end_children(trainer: Trainer) -> None:
    """A process that is stopped or waits for a lost one would stay for ever."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        for process in launcher.procs:
            process.kill()
