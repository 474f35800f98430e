"""Embedding of image files in torch: what training's online score and every evaluation use, so that their vectors are one."""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from backbone.decode import DecodeLimits
from backbone.errors import ImageRefused, PathMissing, StorageFailed
from backbone.image_file import read_image_file
from backbone.machine import usable_cores
from backbone.model import Backbone
from backbone.preprocess import Preprocess

BATCH = 64  # images at once: enough to fill a CPU or a GPU, small in memory
AHEAD = BATCH  # images decoded while the network works: the next batch is ready when it is wanted, and no more is held

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Embedded:
    """The files that became vectors, in the order of the list; those without a row are no images that can be embedded.

    vectors: float32 [n, dim] of length one; positions: int64 [n], ascending, where in the list each row's file stands;
    digests: uint8 [n, 32], sha256 of each row's file; unread: how many files the disk did not give (another time it may).
    """

    vectors: NDArray[np.float32]
    positions: NDArray[np.int64]
    digests: NDArray[np.uint8]
    unread: int


@dataclass(frozen=True)
class _Prepared:
    """One file: its digest, None if it could not be read, and its pixels [3, H, W], None if they could not be decoded."""

    digest: bytes | None
    pixels: NDArray[np.float32] | None


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Hold a network in evaluation mode, and give each layer its own mode back.

    They may differ: batch normalisations of a teacher train while the rest of it does not, and setting one mode for all would leave
    them with running statistics after the first score.
    """
    modes = [(layer, layer.training) for layer in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def embed_files(
    network: Backbone, preprocess: Preprocess, paths: Sequence[Path], limits: DecodeLimits | None = None
) -> tuple[NDArray[np.float32], list[int]]:
    """Embed files in evaluation mode and full precision, on the device where the network is.

    Args:
        network: the backbone; its mode is put back.
        preprocess: how images become its input.
        paths: image files.
        limits: what an image may cost.

    Returns:
        vectors [n, dim] of length one, and for each row the position in `paths`; files that cannot be read or decoded have none.
    """
    done = embed_and_hash(network, preprocess, paths, limits)
    return done.vectors, done.positions.tolist()


def embed_and_hash(
    network: Backbone, preprocess: Preprocess, paths: Sequence[Path], limits: DecodeLimits | None = None
) -> Embedded:
    """Embed as `embed_files` does, and say what the bytes of each file were.

    Files are read and decoded by a thread for each core, `AHEAD` of the network; the answer does not depend on their timing.
    """
    device = next(network.parameters()).device
    vectors: list[NDArray[np.float32]] = []
    positions: list[int] = []
    digests: list[bytes] = []
    unread = 0
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
    with evaluating(network), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(pool.shutdown, cancel_futures=True)
        prepared = _in_order(pool, partial(_prepare, preprocess, limits), paths)
        for start in range(0, len(paths), BATCH):
            batch: list[NDArray[np.float32]] = []
            for position in range(start, min(start + BATCH, len(paths))):
                image = next(prepared)
                unread += image.digest is None
                if image.digest is not None and image.pixels is not None:
                    batch.append(image.pixels)
                    positions.append(position)
                    digests.append(image.digest)
            if batch:
                vectors.append(_embed(network, np.stack(batch), device))
    return Embedded(
        np.concatenate(vectors) if vectors else np.empty((0, network.dim), dtype=np.float32),
        np.array(positions, dtype=np.int64),
        np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, hashlib.sha256().digest_size),
        unread,
    )


def _embed(network: Backbone, pixels: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return network.embed(torch.from_numpy(pixels).to(device)).cpu().numpy()


def _prepare(preprocess: Preprocess, limits: DecodeLimits | None, path: Path) -> _Prepared:
    try:
        data = read_image_file(path, (limits or DecodeLimits()).max_bytes)
    except (ImageRefused, PathMissing, StorageFailed):
        return _Prepared(None, None)  # who calls knows which positions have no row
    digest = hashlib.sha256(data).digest()
    try:
        return _Prepared(digest, preprocess(data, limits))
    except ImageRefused:
        return _Prepared(digest, None)


def _in_order(pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield work(item) in the order of `items`, with at most `AHEAD` results made before they are asked for."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
