"""The images that a folder or a list file names, with their labels; the same answer for training, evaluation and the index job."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backbone.decode import ALL_FORMATS
from backbone.errors import DataInvalid, PathMissing, StorageFailed

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

    def __len__(self) -> int:
        return len(self.images)


def list_images(source: Path, formats: tuple[str, ...] = ALL_FORMATS, labels: str | Path = "folders") -> ImageList:
    """List the images of a folder (searched to its depth) or of a list file.

    Args:
        source: a folder of images, a folder of class folders, or a `.txt` file with one path a line, relative to that file.
        formats: which formats count.
        labels: `folders` (the first folder below the source is the label; images beside class folders have none), `none`, or a CSV
            file with rows `path,label`.

    Returns:
        The images, ordered by id. Hidden files and folders are left out; a folder linked into itself is entered once.

    Raises:
        PathMissing: the source or the CSV file does not exist.
        DataInvalid: no images, or a list that names a file that is not there.
        StorageFailed: a folder cannot be read.
    """
    if not source.exists():
        raise PathMissing(f"{source} does not exist; name a folder of images or a list file.")
    root, paths = _from_folder(source, formats) if source.is_dir() else _from_list(source)
    named = _labels_from_csv(labels) if isinstance(labels, Path) else None
    images = []
    for path in paths:
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if named is not None:
            label = named.get(str(relative))
        else:
            label = relative.parts[0] if labels == "folders" and len(relative.parts) > 1 else None
        images.append(ListedImage(str(relative), path, label))
    if not images:
        endings = " ".join(ending for name in formats for ending in _ENDINGS[name])
        raise DataInvalid(f"{source} holds no images; looked for files ending in {endings}.")
    images.sort(key=lambda image: image.id)
    classes = sorted({image.label for image in images if image.label is not None})
    return ImageList(root, tuple(images), tuple(classes))


def _from_folder(folder: Path, formats: tuple[str, ...]) -> tuple[Path, list[Path]]:
    endings = tuple(ending for name in formats for ending in _ENDINGS[name])
    return folder, [path for path in _walk(folder) if path.name.lower().endswith(endings)]


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise StorageFailed(f"cannot read {error.filename}: {error.strerror}; check the permissions.") from error

    for current, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(current).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current) / name for name in sorted(names) if not name.startswith("."))


def _from_list(file: Path) -> tuple[Path, list[Path]]:
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
    return root, list(dict.fromkeys(paths))


def _labels_from_csv(file: Path) -> dict[str, str]:
    if not file.exists():
        raise PathMissing(f"{file} does not exist; --labels takes folders, none or a CSV file of path,label.")
    with file.open(encoding="utf-8", newline="") as text:
        rows = list(csv.reader(text))
    wrong = next((number for number, row in enumerate(rows, start=1) if row and len(row) != 2), None)
    if wrong is not None:
        raise DataInvalid(f"{file}, row {wrong}: expected two columns, path,label.")
    return {row[0]: row[1] for row in rows if row}
