"""Formats of images: which there are, which are read here, and how their first bytes tell them."""

from __future__ import annotations

import functools
import importlib.util
import struct

from PIL import AvifImagePlugin

SERVICE_FORMATS = ("JPEG", "PNG", "WEBP")  # what strangers may send by default: the three formats that the web uses
ALL_FORMATS = (*SERVICE_FORMATS, "TIFF", "BMP", "GIF")  # what an owner's own folder may hold, read wherever Pillow is
_DECODERS = {"AVIF": "PIL._avif", "HEIC": "pillow_heif"}  # not everywhere: the module that reads each
HOW_TO_GET = {"AVIF": "pip install --force-reinstall pillow", "HEIC": "pip install 'dinodex[heif]'"}
KNOWN_FORMATS = (*ALL_FORMATS, *_DECODERS)
INSTALLED_FORMATS = (*ALL_FORMATS, *(name for name, module in _DECODERS.items() if importlib.util.find_spec(module)))

ENDINGS_OF_HEIF = {"AVIF": (".avif",), "HEIC": (".heic", ".heif", ".hif")}
MEDIA_TYPES = {name: f"image/{name.lower()}" for name in KNOWN_FORMATS}
PILLOW_NAMES = {"HEIC": "HEIF"}  # where Pillow, or what extends it, has another

_SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    ("JPEG", 0, b"\xff\xd8\xff"),
    ("PNG", 0, b"\x89PNG\r\n\x1a\n"),
    ("WEBP", 8, b"WEBP"),
    ("GIF", 0, b"GIF87a"),
    ("GIF", 0, b"GIF89a"),
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("TIFF", 0, b"II+\x00"),  # BigTIFF
    ("TIFF", 0, b"MM\x00+"),
    ("BMP", 0, b"BM"),
)
# ISO 14496-12 and 23008-12: a file begins with its brands. Those of containers alone say nothing of what is in them.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIC"),
}
_CONTAINERS = (b"mif1", b"msf1")
_MOST_BRANDS = 32  # files have up to ten


def image_format(data: bytes) -> str | None:
    """Return the format whose signature `data` carries (of KNOWN_FORMATS), or None; reads a few bytes and parses nothing."""
    for name, offset, magic in _SIGNATURES:
        if data[offset : offset + len(magic)] == magic and (name != "WEBP" or data[:4] == b"RIFF"):
            return name
    return _heif_format(data) if data[4:8] == b"ftyp" else None


def formats_named(text: str, *, read_here: bool = True) -> tuple[str, ...]:
    """Return the formats of a list such as `jpeg, png`.

    Args:
        text: their names, with commas.
        read_here: whether this machine is to read them, and not a service.

    Raises:
        ValueError: one that is not known, or is to be read here and cannot be; it says which, and what to do.
    """
    named = tuple(name.strip().upper().replace("JPG", "JPEG") for name in text.split(","))
    for name in named:
        if name not in KNOWN_FORMATS:
            raise ValueError(f"{name.lower()!r} is not one of {', '.join(KNOWN_FORMATS).lower()}")
        if read_here and name not in INSTALLED_FORMATS:
            raise ValueError(f"{name.lower()!r} needs a decoder that is not installed; {HOW_TO_GET[name]}")
    return named


def hint_for(ending: str) -> str | None:
    """Return what to install so that files of this ending are read; None where nothing is missing, or nothing helps."""
    for name, endings in ENDINGS_OF_HEIF.items():
        if ending.lower() in endings and name not in INSTALLED_FORMATS:
            return f"{ending.lower()} files are read after {HOW_TO_GET[name]}"
    return None


def load_decoders(formats: tuple[str, ...]) -> None:
    """Load what reads these formats, where Pillow does not load it by itself; each uses the thread that calls it, and no more."""
    if "AVIF" in formats:
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if "HEIC" in formats and "HEIC" in INSTALLED_FORMATS:
        _load_heif()


@functools.cache
def _load_heif() -> None:
    import pillow_heif  # loads 30 MB of libraries: only where a HEIC file is met

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _heif_format(data: bytes) -> str | None:
    (size,) = struct.unpack_from(">I", data)
    major, others = data[8:12], data[16 : min(size, 16 + 4 * _MOST_BRANDS)]
    if major in _BRANDS:
        return _BRANDS[major]
    if major not in _CONTAINERS:
        return None
    named = (_BRANDS.get(others[at : at + 4]) for at in range(0, len(others), 4))
    return next((name for name in named if name is not None), None)
