"""The errors between pixels and a vector, as one tree.

BackboneError
├── ImageRefused               an image that will not be embedded; `code` says why, for programs
│   ├── EmptyImage             empty_body
│   ├── UnsupportedImageType   unsupported_image_type
│   ├── TooManyBytes           image_too_large
│   ├── TooManyPixels          too_many_pixels
│   ├── TooManyScans           too_many_scans
│   ├── TooManyChunks          too_many_chunks
│   ├── ImageTooSmall          too_small
│   ├── UnsupportedMode        unsupported_mode
│   ├── CorruptImage           image_corrupt
│   ├── DecodeTooSlow          decode_too_slow
│   └── DecoderCrashed         decoder_crashed
├── ArtifactInvalid            an artifact that is damaged, incomplete or of an unknown format
│   └── SelfTestFailed         an intact artifact whose runtime gives other vectors than it was written with
├── WeightsInvalid             a checkpoint of another program or layout
├── ArchitectureInvalid        an architecture name or parameter that does not exist
├── DataInvalid                a folder or list without usable images
├── PathMissing                a path that does not exist
├── OutputNotEmpty             an output directory that holds something
├── StorageFailed              the disk refused to read or write
├── DirectoryLocked            another process holds the directory
└── NotInstalled               an optional part of dinodex is needed and not there

Every message is one sentence or two for a person: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class BackboneError(Exception):
    """The root of this package's errors."""


class ImageRefused(BackboneError):
    """An image that will not be embedded; the others of its batch are not concerned."""

    code: ClassVar[str] = "image_refused"


class EmptyImage(ImageRefused):
    """No bytes at all, or only white space."""

    code = "empty_body"


class UnsupportedImageType(ImageRefused):
    """Bytes whose signature is not that of an accepted format."""

    code = "unsupported_image_type"


class TooManyBytes(ImageRefused):
    """An encoded image over the byte limit."""

    code = "image_too_large"


class TooManyPixels(ImageRefused):
    """A header that announces more pixels, or a longer side, than the limit."""

    code = "too_many_pixels"


class TooManyScans(ImageRefused):
    """A progressive JPEG with more scans than a camera writes."""

    code = "too_many_scans"


class TooManyChunks(ImageRefused):
    """An image in more chunks than its metadata or its pixels have reason to be."""

    code = "too_many_chunks"


class ImageTooSmall(ImageRefused):
    """An image so narrow that its centre crop would be made of a few stretched pixels."""

    code = "too_small"


class UnsupportedMode(ImageRefused):
    """Pixels with no documented way to RGB (32-bit integers, floats)."""

    code = "unsupported_mode"


class CorruptImage(ImageRefused):
    """An image of an accepted format that cannot be decoded to its end."""

    code = "image_corrupt"


class DecodeTooSlow(ImageRefused):
    """An image whose decoding did not end within its time."""

    code = "decode_too_slow"


class DecoderCrashed(ImageRefused):
    """An image at which the decoder's process ended."""

    code = "decoder_crashed"


class ArtifactInvalid(BackboneError):
    """An artifact that is damaged, incomplete or of an unknown format."""


class SelfTestFailed(ArtifactInvalid):
    """An intact artifact whose runtime gives other vectors than it was written with."""


class WeightsInvalid(BackboneError):
    """A checkpoint of another program or layout."""


class ArchitectureInvalid(BackboneError):
    """An architecture name or parameter that does not exist."""


class DataInvalid(BackboneError):
    """A folder or list without usable images."""


class PathMissing(BackboneError):
    """A path that does not exist."""


class OutputNotEmpty(BackboneError):
    """An output directory that holds something."""


class StorageFailed(BackboneError):
    """The disk refused to read or write."""


class DirectoryLocked(BackboneError):
    """Another process holds the directory."""


class NotInstalled(BackboneError):
    """An optional part of dinodex is needed and not there."""
