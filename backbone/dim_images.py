"""Dim images: grey of 16 bits that uses the lower 12 alone, of which a person is told once before a run."""

from __future__ import annotations

from collections.abc import Sequence

from backbone.decode import highest_grey
from backbone.errors import ImageRefused, PathMissing, StorageFailed
from backbone.image_file import read_image_file
from backbone.listing import ListedImage

LOOKED_AT = 64  # files, evenly from all: of a set from one camera a few tell, and 20 MB each are read in a second
_ENDINGS = (".png", ".tif", ".tiff")
_TWELVE_BITS = 4095


def dim_note(images: Sequence[ListedImage]) -> str | None:
    """Return one line where images of 16 bits come out nearly black; None where all is well."""
    candidates = [image for image in images if image.path.name.lower().endswith(_ENDINGS)]
    step = max(1, -(-len(candidates) // LOOKED_AT))
    highest = [value for image in candidates[::step] if (value := _highest(image)) is not None]
    dim = sum(0 < value <= _TWELVE_BITS for value in highest)
    if not dim:
        return None
    return (
        f"{dim:,} of the {len(highest):,} images of 16 bits that were looked at use only the lower 12 of these, and come out nearly "
        "black; say which value is white"
    )


def _highest(image: ListedImage) -> int | None:
    try:
        return highest_grey(read_image_file(image.path))
    except (ImageRefused, PathMissing, StorageFailed):  # the run itself will say so
        return None
