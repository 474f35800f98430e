"""A cache of vectors of image files, kept on disk, so that a second evaluation reads one file in place of thousands of images.

A file holds the vectors of one list of images under one artifact. Its name is a digest of both: the artifact's fingerprint, and of each
image the id, size and times of last change. The time of the inode's last change (ctime) is among them because copying tools and
archives restore the other one (mtime), and files of one size with one restored time are common, bitmaps for example.

The layout: one line with the format, the key and the sha256 of what follows, then a `.npz`; nothing is ever unpickled. A file that is
damaged or another's is made anew; a directory that cannot be written costs time, not the evaluation.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from backbone.durable import read_file, write_file
from backbone.embedding import Embedded
from backbone.errors import PathMissing, StorageFailed
from backbone.listing import ListedImage

log = logging.getLogger(__name__)

FORMAT = "dinodex-features"
VERSION = 1


def default_directory() -> Path | None:
    """Return where features are kept by the XDG base directory specification, which ignores relative values; None without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "dinodex" / "features"
    except RuntimeError:
        log.warning(
            "there is no home directory, so no vectors are kept for the next evaluation; name a directory for them"
        )
        return None


def key_of(fingerprint: str, images: Sequence[ListedImage]) -> str:
    """Return the name for the vectors of `images`, in this order, under an artifact's fingerprint.

    Raises:
        PathMissing: an image went away since it was listed.
    """
    facts: list[object] = [VERSION, fingerprint]
    for image in images:
        try:
            status = image.path.stat()
        except OSError as error:
            raise PathMissing(f"{image.path} went away while it was looked at; run the command again.") from error
        facts.append([image.id, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def cached(directory: Path | None, key: str, embed: Callable[[], Embedded]) -> Embedded:
    """Return what is kept under `key`, or else the result of `embed`, which is then kept.

    Args:
        directory: where; made if it is not there. None keeps nothing.
        key: see `key_of`.
        embed: makes the vectors. Where the disk did not give it all files, its result is not kept: another time it may.
    """
    if directory is None:
        return embed()
    path = directory / f"{key}.features"
    if (found := _read(path, key)) is not None:
        return found
    made = embed()
    if not made.unread:
        _write(path, key, made)
    return made


def _read(path: Path, key: str) -> Embedded | None:
    try:
        header, _, body = read_file(path).partition(b"\n")
    except PathMissing:
        return None
    except StorageFailed as error:
        log.warning("vectors are computed again: %s", error)
        return None
    if header != _header(key, body):
        log.warning("the vectors kept in %s are damaged or of another version; they are computed again", path)
        return None
    with np.load(
        io.BytesIO(body), allow_pickle=False
    ) as stored:  # what `_write` made, byte for byte: the checksum says so
        return Embedded(stored["vectors"], stored["positions"], stored["digests"], unread=0)


def _write(path: Path, key: str, features: Embedded) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        vectors=features.vectors,
        positions=features.positions,
        digests=features.digests,
    )
    body = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, _header(key, body) + b"\n" + body)
    except (StorageFailed, OSError) as error:
        log.warning("the vectors are not kept for the next evaluation: %s", error)


def _header(key: str, body: bytes) -> bytes:
    return f"{FORMAT} {VERSION} {key} {hashlib.sha256(body).hexdigest()}".encode()
