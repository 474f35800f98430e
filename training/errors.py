"""What can go wrong in training, as one tree.

TrainingError
├── ConfigInvalid        an unknown key, a value of another type, or values that contradict each other
├── DataTooSmall         too few images to learn from
├── TooManyCorrupt       more than one image in a hundred cannot be decoded
├── CheckpointInvalid    a file that is not a checkpoint of this program, or a damaged one
└── Diverged             the loss was not a finite number several times in a row

Problems with files, images and artifacts are backbone's errors and pass through as they are. Every message is one sentence or two for a
person: what is wrong, and what to do.
"""

from __future__ import annotations


class TrainingError(Exception):
    """The root of this package's errors."""


class ConfigInvalid(TrainingError):
    """An unknown key, a value of another type or out of range, or values that contradict each other."""


class DataTooSmall(TrainingError):
    """Too few images to learn from."""


class TooManyCorrupt(TrainingError):
    """More than one image in a hundred cannot be decoded."""


class CheckpointInvalid(TrainingError):
    """A file that is not a checkpoint of this program, or a damaged one."""


class Diverged(TrainingError):
    """The loss was not a finite number several times in a row."""
