"""The images that a folder or a list file names, with their labels; the same answer for training, evaluation and the index job."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.decode import ALL_FORMATS
from backbone.errors import DataInvalid, PathMissing
from backbone.exclude_pattern import ExcludePattern
from backbone.folder_walk import FolderWalk, Scope
from backbone.left_out import LeftOut

# Names of the parts of a set of images, and hardly ever of what is in them.
SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))

# Endings only choose candidates; what a file is, its first bytes say when it is decoded.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image file."""

    id: str  # its path relative to the source, with `/`
    path: Path
    label: str | None


@dataclass(frozen=True)
class ImageList:
    """The images of one source, ordered by id."""

    root: Path
    images: tuple[ListedImage, ...]
    classes: tuple[str, ...]  # the labels that occur, ordered
    scope: Scope
    left_out: LeftOut
    is_folder: bool  # else a list file named the images

    def covers(self, relative: str) -> bool:
        """Tell whether a file of this path below the root, with `/`, would have been looked at: of a list, only what it names."""
        return self.scope.covers(relative) if self.is_folder else relative in self._ids

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a person has to know about this listing, a line each: what was left out, and labels that may not be meant."""
        notes = [str(self.left_out)] if str(self.left_out) else []
        idle = [pattern.text for pattern in self.scope.exclude if not self.left_out.excluded[pattern.text]]
        notes += [f"nothing is left out by exclude ({text})" for text in idle]
        if self._is_split():
            notes.append(
                f"the folders are the parts of a split, so the labels are {' and '.join(self.classes)}; to label by the folders "
                f"inside of them, name one of them ({self.root / self.classes[0]}), or switch labels off"
            )
        return tuple(notes)

    def _is_split(self) -> bool:
        by_folder = self.is_folder and any(image.label == image.id.partition("/")[0] for image in self.images)
        return by_folder and all(name.lower() in SPLIT_NAMES for name in self.classes)

    @functools.cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(image.id for image in self.images)

    def __len__(self) -> int:
        return len(self.images)


def list_images(
    source: Path,
    formats: tuple[str, ...] = ALL_FORMATS,
    labels: str | Path = "folders",
    exclude: Sequence[str] = (),
) -> ImageList:
    """List the images of a folder (searched to its depth) or of a list file.

    Args:
        source: a folder of images, a folder of class folders, or a `.txt` file with one path a line, relative to that file.
        formats: which formats count.
        labels: `folders` (the first folder below the source is the label; images beside class folders have none), `none`, or a CSV
            file with rows `path,label`.
        exclude: patterns of paths to leave out (`exclude_pattern.py`).

    Returns:
        The images, ordered by id. Hidden files and folders are left out, and so are those that systems leave; a folder linked into
        itself is entered once.

    Raises:
        PathMissing: the source or the CSV file does not exist.
        DataInvalid: no images, or a list that names a file that is not there.
        StorageFailed: a folder cannot be read.
    """
    if not source.exists():
        raise PathMissing(f"{source} does not exist; name a folder of images or a list file.")
    endings = tuple(ending for name in formats for ending in _ENDINGS[name])
    scope = Scope(endings, tuple(ExcludePattern.of(text) for text in exclude))
    is_folder = source.is_dir()
    root, paths, left_out = _from_folder(source, scope) if is_folder else _from_list(source, scope)
    if not paths:
        reason = f"; {left_out}" if str(left_out) else ""
        raise DataInvalid(f"{source} holds no images; looked for files ending in {' '.join(endings)}{reason}.")
    named = _labels_from_csv(labels) if isinstance(labels, Path) else None
    images = []
    for path in sorted(paths):
        if named is not None:
            label = named.get(path)
        else:
            label = path.split("/")[0] if labels == "folders" and "/" in path else None
        images.append(ListedImage(path, root / path, label))
    classes = sorted({image.label for image in images if image.label is not None})
    return ImageList(root, tuple(images), tuple(classes), scope, left_out, is_folder)


def _from_folder(folder: Path, scope: Scope) -> tuple[Path, list[str], LeftOut]:
    walk = FolderWalk(folder, scope)
    return folder, list(walk.files()), walk.left_out


def _from_list(file: Path, scope: Scope) -> tuple[Path, list[str], LeftOut]:
    if file.suffix != ".txt":
        raise DataInvalid(f"{file} is a file, but not a list; name a folder, or a .txt file with one path a line.")
    root = file.parent
    paths = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataInvalid(f"{file} is not UTF-8 text; write one path a line.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = Path(os.path.normpath(root / line.strip()))
        if not path.is_file():
            raise DataInvalid(f"{file}, line {number}: {line.strip()} is not there; paths are relative to the list.")
        paths.append(path)
    outside = [path for path in paths if not path.is_relative_to(root)]
    if outside:  # the ids would start with `..`: count from the folder that holds them all
        root = Path(os.path.commonpath([root, *(path.parent for path in outside)]))
    left_out = LeftOut()
    named = []
    for relative in dict.fromkeys(path.relative_to(root).as_posix() for path in paths):
        if (pattern := scope.excluding(relative.split("/"))) is not None:
            left_out.excluded[pattern.text] += 1
        else:
            named.append(relative)
    return root, named, left_out


def _labels_from_csv(file: Path) -> dict[str, str]:
    if not file.exists():
        raise PathMissing(f"{file} does not exist; --labels takes folders, none or a CSV file of path,label.")
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.reader(text))
    wrong = next((number for number, row in enumerate(rows, start=1) if row and len(row) != 2), None)
    if wrong is not None:
        raise DataInvalid(f"{file}, row {wrong}: expected two columns, path,label.")
    return {row[0]: row[1] for row in rows if row}
