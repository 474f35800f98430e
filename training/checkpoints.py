"""Checkpoints: one file each, whole or absent, and recognised when damaged.

A file is the line `dinodex-checkpoint 2 <sha256 of the rest>` and then what `torch.save` makes of tensors and plain types.
Reading never runs code from the file (`weights_only=True`, no fall-back).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbone.durable import read_file, sync_directory, write_file
from backbone.errors import StorageFailed
from training.errors import CheckpointInvalid

log = logging.getLogger(__name__)

FORMAT, VERSION = "dinodex-checkpoint", 2
# What torch's reader raises on bytes that are no file of its own: it walks them before it knows.
_READING_ERRORS = (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError, LookupError, AttributeError)
_HEADER = re.compile(rb"dinodex-checkpoint (\d+) ([0-9a-f]{64})\n")
_HEADER_BYTES = 128  # more than the longest header
_NAME = re.compile(r"step-(\d+)\.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run's next step depends on, and what an export needs."""

    step: int  # batches behind it; the next step has this number
    elapsed_s: float
    skipped: int  # steps not taken, in a row, up to here
    processes: int  # that trained together
    config: dict[str, Any]  # resolved keys, plain types
    architecture: dict[str, Any]  # `Architecture.to_dict`
    method: dict[str, Tensor]  # state of `SelfDistillation`
    optimizer: dict[str, Any]
    scaler: dict[str, Any]  # of the loss, in float16
    watch: dict[str, Any]  # what the log has seen and not written yet
    lineage: str  # where the weights came from when the run began
    images: int  # number of training images
    data_fingerprint: str  # `Inventory.fingerprint`
    scores: dict[str, float]  # the last online score, by its name in the log


class Provenance(NamedTuple):
    """Where a run comes from: the fields of `Checkpoint` that stay the same from its first step to its last."""

    lineage: str
    images: int
    data_fingerprint: str


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint after `step` steps; names sort by step."""
    return folder / f"step-{step:08d}.ckpt"


def write_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint durably, then remove all but the newest `keep`.

    Checkpoints of later steps are removed too: the run went on from before them, which it does only where they are damaged.

    Raises:
        StorageFailed: the disk refused; the earlier checkpoints are all still there.
    """
    buffer = io.BytesIO()
    torch.save({field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}, buffer)
    body = buffer.getbuffer()
    header = f"{FORMAT} {VERSION} {hashlib.sha256(body).hexdigest()}\n".encode()
    path = checkpoint_path(folder, checkpoint.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _publish(path, header, body)
        files = checkpoint_files(folder)
        newest = files.index(path)
        for other in [*files[:newest], *files[newest + keep :]]:
            other.unlink(missing_ok=True)
        sync_directory(folder)
    except OSError as error:
        raise StorageFailed(
            f"cannot write {path}: {error.strerror}; check the disk's space and the permissions."
        ) from error
    return path


def _publish(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file that is there when this returns, whatever happens to the machine, and not there when it raises."""
    try:
        write_file(path, *parts, verify=True)
    except StorageFailed:
        with contextlib.suppress(OSError):  # the flush of the name may have been what failed
            path.unlink(missing_ok=True)
        raise


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first, whether or not they are valid."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def is_checkpoint(path: Path) -> bool:
    """Say whether a file begins as this program's checkpoints do."""
    with path.open("rb") as file:
        return _HEADER.match(file.read(_HEADER_BYTES)) is not None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; tensors come to the CPU.

    Raises:
        PathMissing: no such file.
        CheckpointInvalid: a file of another program, of a later version, or a damaged one.
    """
    data = read_file(path)
    header = _HEADER.match(data)
    if header is None:
        raise CheckpointInvalid(f"{path} is not a checkpoint of dinodex; name a file from RUN/checkpoints.")
    if int(header[1]) != VERSION:
        raise CheckpointInvalid(
            f"{path} has format {int(header[1])}, this program reads {VERSION}; use the dinodex that wrote it."
        )
    body = memoryview(data)[header.end() :]
    if hashlib.sha256(body).hexdigest().encode() != header[2]:
        raise CheckpointInvalid(
            f"{path} is damaged: its bytes are not those that were written; use an earlier checkpoint."
        )
    try:
        values = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return Checkpoint(**values)
    except _READING_ERRORS as error:
        raise CheckpointInvalid(f"{path} does not hold what a checkpoint holds; use an earlier checkpoint.") from error


def newest_valid(folder: Path) -> Checkpoint:
    """Return the newest checkpoint of a folder that is whole; each damaged one that is passed over is logged.

    Raises:
        CheckpointInvalid: there is none.
    """
    for path in checkpoint_files(folder):
        try:
            return read_checkpoint(path)
        except CheckpointInvalid as error:
            log.warning("%s", error)
    raise CheckpointInvalid(f"{folder} holds no valid checkpoint; the run has not saved one yet.")
