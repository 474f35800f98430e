"""The images of the demo, and why these; written as two folders of class folders, `train` and `held-out`."""

from __future__ import annotations

import gzip
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.decode import decode
from backbone.durable import read_file
from backbone.errors import DataInvalid, ImageRefused, NotInstalled
from backbone.listing import ListedImage, list_images

T = TypeVar("T")

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
FASHION_CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
SEED = 0  # of the subset and the split: every run of the demo sees the same images
MOST_TRAIN, MOST_HELD_OUT = (
    8_000,
    1_000,
)  # what two CPU cores train on several times, index and classify within six minutes
HELD_OUT_SHARE = 0.2  # of a set that brings no split of its own
SMALL = 64  # pixels; up to this median short side pictures count as icons
DOWNLOAD_TIMEOUT_S = 15.0  # without a network, the fall-back should not keep anyone waiting


@dataclass(frozen=True)
class DemoData:
    """Images on disk."""

    name: str
    why: str  # a sentence: which data and why
    train: Path
    held_out: Path
    small: bool  # icons and digits rather than photographs
    mirrored: bool  # a mirror image is still the same thing (not so for digits)


def prepare(data: str | None, folder: Path) -> DemoData:
    """Choose the images and write (or link) them below `folder`.

    Args:
        data: a folder of images, `imagenette`, or None for what this machine has.
        folder: a directory of the demo's own.

    Raises:
        PathMissing, DataInvalid: the folder given is not there or holds too little.
        NotInstalled: nothing was given, and neither Fashion-MNIST nor scikit-learn is there.
    """
    if data == "imagenette":
        try:
            return _from_folder(_download_imagenette(folder / "imagenette"), folder, "Imagenette, as asked")
        except OSError as error:
            fallback = prepare(None, folder)
            why = f"Imagenette cannot be downloaded here ({error}), so instead: {fallback.why}"
            return DemoData(fallback.name, why, fallback.train, fallback.held_out, fallback.small, fallback.mirrored)
    if data is not None:
        return _from_folder(Path(data), folder, "the folder that was given")
    if (FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file():
        return _fashion_mnist(folder)
    return _digits(folder)


def _fashion_mnist(folder: Path) -> DemoData:
    chooser = np.random.default_rng(SEED)
    for name, prefix, most in (("train", "train", MOST_TRAIN), ("held-out", "t10k", MOST_HELD_OUT)):
        pixels = _read_idx(FASHION_MNIST / f"{prefix}-images-idx3-ubyte.gz")
        labels = _read_idx(FASHION_MNIST / f"{prefix}-labels-idx1-ubyte.gz")
        for index in sorted(chooser.permutation(len(pixels))[:most].tolist()):
            _write(folder / name, FASHION_CLASSES[labels[index]], index, pixels[index])
    why = (
        f"Fashion-MNIST, because Debian's package is installed: a seeded subset of {MOST_TRAIN:,} training and "
        f"{MOST_HELD_OUT:,} held-out images, which fits the demo's minutes"
    )
    return DemoData("Fashion-MNIST", why, folder / "train", folder / "held-out", small=True, mirrored=True)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read the IDX format of MNIST: two zero bytes, type, number of axes, a big-endian length for each, then the values."""
    data = gzip.decompress(read_file(path))
    axes = data[3]
    shape = np.frombuffer(data, ">u4", count=axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(tuple(shape.tolist()))


def _digits(folder: Path) -> DemoData:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise NotInstalled("the demo needs images: give --data DIR, or run: pip install 'dinodex[demo]'.") from error
    digits = load_digits()
    held_out = set(_held_out(range(len(digits.target)), MOST_HELD_OUT))
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "held-out" if index in held_out else "train"
        _write(folder / part, f"digit-{label}", index, (pixels * (255 / 16)).round().astype(np.uint8))
    why = (
        "scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, because they need no download; "
        "with Debian's package dataset-fashion-mnist installed, the demo takes that larger set"
    )
    return DemoData("digits", why, folder / "train", folder / "held-out", small=True, mirrored=False)


def _write(folder: Path, label: str, index: int, pixels: NDArray[np.uint8]) -> None:
    path = folder / label / f"{index:05d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _download_imagenette(folder: Path) -> Path:
    from torchvision.datasets import Imagenette

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Imagenette(str(folder), split="train", size="160px", download=True)
    except RuntimeError as error:  # what torchvision raises for a download whose checksum is wrong
        raise OSError(str(error)) from error
    finally:
        socket.setdefaulttimeout(before)
    return folder / "imagenette2-160" / "train"


def _from_folder(source: Path, folder: Path, reason: str) -> DemoData:
    images = list(list_images(source).images)
    if len(images) < 20:
        raise DataInvalid(f"{source} holds {len(images)} images; the demo needs at least 20.")
    chooser = random.Random(SEED)  # noqa: S311 - a subset, not a secret
    most = MOST_TRAIN + MOST_HELD_OUT
    subset = sorted(chooser.sample(images, most), key=lambda i: i.id) if len(images) > most else images
    held_out = set(_held_out([image.id for image in subset], MOST_HELD_OUT))
    for image in subset:
        part = folder / ("held-out" if image.id in held_out else "train")
        link = part / image.id
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(image.path.resolve())
    size = (
        f"a seeded subset of {len(subset):,} of its {len(images):,}"
        if len(subset) < len(images)
        else f"{len(images):,}"
    )
    why = f"{source}, {reason}: {size} images, of which {len(held_out):,} are held out"
    return DemoData(source.name, why, folder / "train", folder / "held-out", _are_small(subset), mirrored=True)


def _held_out(items: Sequence[T], most: int) -> list[T]:
    return random.Random(SEED).sample(list(items), min(int(len(items) * HELD_OUT_SHARE), most))  # noqa: S311


def _are_small(images: Sequence[ListedImage]) -> bool:
    sides = []
    for image in random.Random(SEED).sample(list(images), min(50, len(images))):  # noqa: S311
        try:
            sides.append(min(decode(read_file(image.path)).size))
        except ImageRefused:
            continue  # the index step reports it by name
    return bool(sides) and sorted(sides)[len(sides) // 2] <= SMALL
