"""The decoder's child process: python -m service.embedding.decoder_worker TASK PARENT, encoded images in over a socket, pixels out.

A decoder is C code that meets bytes of strangers. Here it may crash, hang, or ask for all memory, and costs one image: the process has
a limit of memory and no secrets in its environment, and whoever sent the image ends it when its time is over.

A request is REQUEST (what is wanted, the length of the image) and the image. An answer is ANSWER (what came of it, two lengths) and two
parts: the square and the thumbnail, or the code and the message of a refusal.
"""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from backbone.decode import DecodeLimits, decode, refusals
from backbone.errors import ImageRefused
from backbone.formats import load_decoders
from backbone.preprocess import Preprocess
from service.concurrency.child_process import end_with

REQUEST, ANSWER = struct.Struct("<BI"), struct.Struct("<BII")
SQUARE, THUMBNAIL = 1, 2  # bits of what is wanted
DECODED, REFUSED = 0, 1  # what came of it
STARTED = b"started\n"  # last on standard error, once an image can be decoded; what is before it says why none can
BYTES_PER_PIXEL = 20  # at most at once, 4 each: grey with alpha, RGBA, the white beneath it, both composited, and RGB
# At most at once, of 10 bits: 8 as luma, chroma and alpha, 8 as RGBA, and 4 each as bytes and those above.
HEIF_BYTES_PER_PIXEL = 32
SPARE_BYTES = 256 * 2**20  # for the encoded image, tables of the decoders, and what they take beside the pixels
_THUMBNAIL_QUALITY = 85  # Pillow's and most cameras' trade of bytes for looks


@dataclass(frozen=True)
class Task:
    """The preprocessing of every image, and what it may cost."""

    preprocess: dict[str, Any]
    limits: dict[str, Any]
    thumbnail_px: int  # of the longer side


def serve(connection: socket.socket, task: Task) -> None:
    """Answer requests until the other side closes."""
    preprocess = Preprocess.from_dict(task.preprocess)
    limits = DecodeLimits(**{**task.limits, "formats": tuple(task.limits["formats"])})
    while (head := receive(connection, REQUEST.size)) is not None:
        wanted, length = REQUEST.unpack(head)
        data = receive(connection, length)
        if data is None:
            return
        kind, first, second = _answer(bytes(data), wanted, preprocess, limits, task.thumbnail_px)
        connection.sendall(ANSWER.pack(kind, len(first), len(second)))
        connection.sendall(first)
        connection.sendall(second)


def receive(connection: socket.socket, length: int) -> bytearray | None:
    """Return exactly so many bytes; None where the other side closed before."""
    data = bytearray(length)
    view, got = memoryview(data), 0
    while got < length:
        more = connection.recv_into(view[got:])
        if not more:
            return None
        got += more
    return data


def _answer(
    data: bytes, wanted: int, preprocess: Preprocess, limits: DecodeLimits, thumbnail_px: int
) -> tuple[int, bytes, bytes]:
    square = small = b""
    image: Image.Image | None = None
    try:
        with refusals():
            if wanted & SQUARE:
                image = decode(data, limits, preprocess.resize, preprocess.value_range)
                square = preprocess.square(image).tobytes()
            if wanted & THUMBNAIL:
                if (
                    image is None or min(image.size) < thumbnail_px
                ):  # decoded for a small network: too coarse for a person
                    image = decode(data, limits, thumbnail_px, preprocess.value_range)
                small = thumbnail(image, thumbnail_px)
    except ImageRefused as refusal:
        return REFUSED, type(refusal).__name__.encode(), str(refusal).encode()
    return DECODED, square, small


def thumbnail(image: Image.Image, longer_side_px: int) -> bytes:
    """Return a JPEG of an RGB image that fits a square of `longer_side_px`; smaller images keep their size.

    It carries pixels alone: what a stranger wrote beside them is neither kept nor served.
    """
    small = image.copy()
    small.info.clear()  # Pillow writes a comment that it finds here
    small.thumbnail((longer_side_px, longer_side_px))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_THUMBNAIL_QUALITY)
    return file.getvalue()


def memory_of_an_image(limits: DecodeLimits) -> int:
    """Return the bytes that decoding one image may take, beside what the process has."""
    bytes_per_pixel = HEIF_BYTES_PER_PIXEL if {"AVIF", "HEIC"} & set(limits.formats) else BYTES_PER_PIXEL
    return bytes_per_pixel * limits.max_pixels + 2 * limits.max_bytes + SPARE_BYTES


def limit_memory(limits: DecodeLimits, address_space: Callable[[], int]) -> None:
    """Let this process take no more than its libraries have now and one image may need; leave no core file of a stranger's bytes."""
    most = address_space() + memory_of_an_image(limits)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - nothing else to import
        return int(file.read().split()[0]) * resource.getpagesize()


def _leave_standard_error() -> None:
    """Say that the start is over; from here on nobody reads what a decoder says of a stranger's bytes."""
    os.write(sys.stderr.fileno(), STARTED)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - nothing else to import
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def main(task: Task) -> None:
    """Answer whoever holds the other end of the standard input, which is a socket."""
    limits = DecodeLimits(**{**task.limits, "formats": tuple(task.limits["formats"])})
    Image.init()  # its plugins, before anything is limited
    load_decoders(limits.formats)
    if sys.platform == "linux":
        limit_memory(limits, _address_space)
    _leave_standard_error()
    with socket.socket(fileno=0) as connection:
        serve(connection, task)


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    main(Task(**json.loads(sys.argv[1])))
