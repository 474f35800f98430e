"""The boxes of a HEIF file (HEIC and AVIF), counted before a parser sees them.

Items are listed in tables (locations, kinds, properties, references), and parsers look each up in a list of all: time grows with the
square of their number. A photograph of 50 megapixels in the smallest common tiles has 800.
"""

from __future__ import annotations

import struct

from backbone.errors import TooManyChunks

_HEADER, _LARGE = struct.Struct(">I4s"), struct.Struct(">Q")
_CONTAINERS = {
    b"meta": 4,
    b"iprp": 0,
    b"ipco": 0,
    b"grpl": 0,
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
}
_TABLES = frozenset((b"iloc", b"iinf", b"ipma", b"iref"))
_TABLE_BYTES = 64  # for each chunk that is allowed: an item takes 25 in the first two tables, and 10 in the others
_BOXES = 4  # for each, too: properties are boxes, and so are the parts of a track


def check_boxes(data: bytes, most: int) -> None:
    """Refuse a file whose boxes, or tables of items, are more than those of `most` items.

    Raises:
        TooManyChunks: it says so.
    """
    boxes, table_bytes = _BOXES * most, _TABLE_BYTES * most
    regions = [(0, len(data))]
    while regions:
        at, end = regions.pop()
        while at + _HEADER.size <= end:
            size, name, start = _box(data, at, end)
            boxes -= 1
            table_bytes -= size if name in _TABLES else 0
            if boxes < 0 or table_bytes < 0:
                raise TooManyChunks(f"the image lists more than {most:,} items in its tables; save it again.")
            if name in _CONTAINERS:
                regions.append((start + _CONTAINERS[name], min(at + size, end)))
            at += size


def _box(data: bytes, at: int, end: int) -> tuple[int, bytes, int]:
    """Return a box's size, its name, and where its content starts."""
    size, name = _HEADER.unpack_from(data, at)
    start = at + _HEADER.size
    if size == 1 and start + _LARGE.size <= end:
        (size,) = _LARGE.unpack_from(data, start)
        start += _LARGE.size
    if size == 0:  # up to the end
        size = end - at
    return max(size, _HEADER.size), name, start
