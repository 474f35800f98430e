"""The errors of training, as one tree.

TrainingError
├── ConfigInvalid        an unknown key, a value of another type, values that contradict each other or the run that is resumed
├── DataTooSmall         too few images, or too few labels, to learn or to measure from
├── DataChanged          a resumed run finds other images than it began with
├── TooManyCorrupt       more than one image in a hundred cannot be decoded
├── CheckpointInvalid    a file that is not a checkpoint of this program, or a damaged one
├── Diverged             the loss was not a finite number several times in a row
├── Collapsed            the representation became constant and stayed so
├── LoadingFailed        a process that loads images came to an end
│   └── LoadingStopped   a stop was asked for, and no images came that the run could have stopped after
├── CannotMeet           the processes of a run do not find each other: a name without an address, a port in use
└── PeerLost             another process of the run came to an end, or no longer answers

Problems with files, images and artifacts are backbone's errors and pass through as they are. Every message is one sentence or two for a
person: what is wrong, and what to do.
"""

from __future__ import annotations


class TrainingError(Exception):
    """The root of this package's errors."""


class ConfigInvalid(TrainingError):
    """An unknown key, a value of another type or out of range, or values that contradict each other or the run that is resumed."""


class DataTooSmall(TrainingError):
    """Too few images, or too few labels, to learn or to measure from."""


class DataChanged(TrainingError):
    """A resumed run finds other images than it began with."""


class TooManyCorrupt(TrainingError):
    """More than one image in a hundred cannot be decoded."""


class CheckpointInvalid(TrainingError):
    """A file that is not a checkpoint of this program, or a damaged one."""


class Diverged(TrainingError):
    """The loss was not a finite number several times in a row."""


class Collapsed(TrainingError):
    """The representation became constant and stayed so."""


class LoadingFailed(TrainingError):
    """A process that loads images came to an end."""


class LoadingStopped(LoadingFailed):
    """A stop was asked for, and no images came that the run could have stopped after."""


class CannotMeet(TrainingError):
    """The processes of a run do not find each other: a name without an address, a port in use."""


class PeerLost(TrainingError):
    """Another process of the run came to an end, or no longer answers."""
