"""The directory of a TIFF's first picture, classic or BigTIFF: its tags of pixels, read and written.

Every tag and every strip costs a parser microseconds, however little is behind it; they are counted here before one sees them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from backbone.errors import TooManyChunks

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_LENGTHS, PLANES, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
PALETTE, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_LENGTHS, EXTRA, FORMAT = 320, 322, 323, 324, 325, 338, 339
# Those that the pixels depend on: all of these, and what belongs to T.4, T.6, JPEG and YCbCr.
_PICTURE = (
    *range(WIDTH, COMPRESSION + 1),
    PHOTOMETRIC,
    FILL_ORDER,
    ORIENTATION,
    SAMPLES,
    PLANES,
    PREDICTOR,
    EXTRA,
    FORMAT,
)
_PIECES = (STRIPS, ROWS, STRIP_LENGTHS, *range(PALETTE, TILE_LENGTHS + 1))
_OF_PIXELS = frozenset((*_PICTURE, *_PIECES, 292, 293, 347, *range(529, 533)))

# Type number to its struct letter. Rationals are two numbers.
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 7: "B", 16: "Q"}
_LONG = 4
_MOST_NUMBERS = 100_000  # of a tag: 90,000 strips are a row each of the tallest image in three planes; each costs 6 us
_MOST_COLOURS = 3 * 2**16  # of a palette of 16 bits

Values = tuple[int, Sequence[int]]  # type and numbers


@dataclass(frozen=True)
class Directory:
    """The tags that the pixels depend on."""

    order: str
    big: bool
    tags: Mapping[int, Values] = field(default_factory=dict)  # by number
    is_whole: bool = True  # no tag points out of the file, and there is a picture

    def all(self, tag: int, default: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the numbers of a tag."""
        return tuple(self.tags[tag][1] if tag in self.tags else default)

    def one(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return (self.all(tag) or (default,))[0]

    def having(self, changes: Mapping[int, Values], without: int | None = None) -> Directory:
        """Return this directory with other values."""
        return replace(self, tags={**{tag: kept for tag, kept in self.tags.items() if tag != without}, **changes})

    @property
    def parts(self) -> tuple[int, int]:
        """Return the tags of where strips or tiles are, and of how many bytes each has."""
        return (TILES, TILE_LENGTHS) if TILES in self.tags else (STRIPS, STRIP_LENGTHS)


def read_directory(data: bytes, most_tags: int) -> Directory:
    """Read the first directory.

    Raises:
        TooManyChunks: it has more than `most_tags` tags, or more strips than any picture.
        struct.error: there is none.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43
    pointer, entry = struct.Struct(order + ("Q" if big else "I")), struct.Struct(order + ("HHQ" if big else "HHI"))
    tags: dict[int, Values] = {}
    is_whole = True
    for place in _places(data, order, big, most_tags):
        if place + entry.size + pointer.size > len(data):
            is_whole = False
            break
        tag, kind, length = entry.unpack_from(data, place)
        if tag not in _OF_PIXELS:
            continue
        if length > (_MOST_COLOURS if tag == PALETTE else _MOST_NUMBERS):
            raise TooManyChunks(f"the TIFF's pixels come in more than {_MOST_NUMBERS:,} pieces; save it again.")
        if kind not in _TYPES or tag in tags:
            continue
        numbers = struct.Struct(f"{order}{length * len(_TYPES[kind])}{_TYPES[kind][0]}")
        where = place + entry.size
        if numbers.size > pointer.size:
            (where,) = pointer.unpack_from(data, where)
        if where + numbers.size <= len(data):
            tags[tag] = kind, numbers.unpack_from(data, where)
        else:  # Pillow goes on without it
            is_whole = False
    found = Directory(order, big, tags)
    return replace(found, is_whole=is_whole and {WIDTH, HEIGHT, found.parts[0]} <= tags.keys())


def _places(data: bytes, order: str, big: bool, most_tags: int) -> range:
    """Return where the entries of the first directory stand."""
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    count = struct.Struct(order + ("Q" if big else "H"))
    (tags,) = count.unpack_from(data, at)
    if tags > most_tags:
        raise TooManyChunks(f"the TIFF has more than {most_tags:,} tags; save it again without.")
    step, first = 20 if big else 12, at + count.size
    return range(first, first + step * tags, step)


def written(data: bytes, directory: Directory) -> bytes:
    """Return a classic TIFF of the bytes in `data`, to which the directory's offsets point.

    The directory stands in front of them: behind, it would be taken for what a cut file lacks.
    """
    order, count = directory.order, len(directory.tags)
    tags = {tag: _classic(tag, *values) for tag, values in sorted(directory.tags.items())}
    behind = 8 + 2 + 12 * count + 4
    start = behind + sum(size + size % 2 for kind, numbers in tags.values() if (size := _size(kind, numbers)) > 4)
    head, values = struct.pack(f"{order}H", count), b""
    for tag, (kind, numbers) in tags.items():
        moved = [at + start for at in numbers] if tag in (STRIPS, TILES) else numbers
        packed = struct.pack(f"{order}{len(moved)}{_TYPES[kind][0]}", *moved)
        head += struct.pack(f"{order}HHI", tag, kind, len(moved) // len(_TYPES[kind]))
        if len(packed) <= 4:
            head += packed.ljust(4, b"\0")
        else:
            head += struct.pack(f"{order}I", behind + len(values))
            values += packed + b"\0" * (len(packed) % 2)
    name = b"II*\x00" if order == "<" else b"MM\x00*"
    return name + struct.pack(f"{order}I", 8) + head + bytes(4) + values + data


def _classic(tag: int, kind: int, numbers: Sequence[int]) -> Values:
    return (_LONG if kind == 16 or tag in (STRIPS, TILES) else kind), numbers


def _size(kind: int, numbers: Sequence[int]) -> int:
    return len(numbers) * struct.calcsize(f"={_TYPES[kind][0]}")
