"""The images that a folder or a list file names, with their labels; the same answer for training, evaluation and the index job."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import DataInvalid, PathMissing, StorageFailed
from backbone.formats import ALL_FORMATS, ENDINGS_OF_HEIF, INSTALLED_FORMATS, hint_for
from backbone.listing.exclude_pattern import ExcludePattern
from backbone.listing.folder_walk import FolderWalk, Scope
from backbone.listing.label_file import FileLabels, read_labels
from backbone.listing.left_out import LeftOut
from backbone.listing.list_file import NamedFiles, read_list

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
    **ENDINGS_OF_HEIF,
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
    remarks: tuple[str, ...] = ()  # on formats that could be read, and on the files that name images and labels

    def covers(self, relative: str) -> bool:
        """Tell whether a file of this path below the root, with `/`, would have been looked at: of a list, only what it names."""
        return self.scope.covers(relative) if self.is_folder else relative in self._ids

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a person has to know about this listing, a line each: what was left out, and labels that may not be meant."""
        notes = [str(self.left_out)] if str(self.left_out) else []
        notes += self.remarks
        idle = [pattern.text for pattern in self.scope.exclude if not self.left_out.excluded[pattern.text]]
        notes += [f"nothing is left out by exclude ({text})" for text in idle]
        if self._is_split():
            one = next((name for name in self.classes if name.lower().startswith("train")), self.classes[0])
            notes.append(
                f"the folders are the parts of a split, so the labels are {' and '.join(self.classes)}; to label by the folders "
                f"inside of them, name one of them ({self.root / one}), or switch labels off"
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
    formats: tuple[str, ...] = INSTALLED_FORMATS,
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
    _must_exist(source)
    endings = tuple(ending for name in formats for ending in _ENDINGS[name])
    scope = Scope(endings, tuple(ExcludePattern.of(text) for text in exclude))
    is_folder = source.is_dir()
    files = _from_folder(source, scope) if is_folder else read_list(source, scope)
    hints = _hints(files.left_out, formats)
    if not files.paths:
        wanted = _looked_for(endings) if is_folder else "a list has the path of one on each line"
        reasons = [text for text in (wanted, str(files.left_out), *hints) if text]
        raise DataInvalid(f"{source} holds no images; {'; '.join(reasons)}.")
    ids = sorted(files.paths)
    named = _labels(labels, ids, files.root)
    images = tuple(ListedImage(id_, files.root / id_, named.by_id.get(id_)) for id_ in ids)
    classes = tuple(sorted(set(named.by_id.values())))
    return ImageList(
        files.root, images, classes, scope, files.left_out, is_folder, (*hints, *files.notes, *named.notes)
    )


def _looked_for(endings: tuple[str, ...]) -> str:
    return f"looked for files ending in {' '.join(endings)}"


def _hints(left_out: LeftOut, formats: tuple[str, ...]) -> list[str]:
    """Return what to install so that more is read; nothing to who asked for certain formats, or has a service read them."""
    if not set(ALL_FORMATS) <= set(formats):
        return []
    return sorted({hint for ending in left_out.endings if (hint := hint_for(ending)) is not None})


def _must_exist(source: Path) -> None:
    try:
        source.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise PathMissing(f"{source} does not exist; name a folder of images or a list file.") from error
    except OSError as error:
        raise StorageFailed(f"cannot read {source}: {error.strerror}; check the path and its permissions.") from error


def _from_folder(folder: Path, scope: Scope) -> NamedFiles:
    walk = FolderWalk(folder, scope)
    return NamedFiles(folder, tuple(walk.files()), walk.left_out, ())


def _labels(given: str | Path, ids: Sequence[str], root: Path) -> FileLabels:
    if isinstance(given, Path) or given not in ("folders", "none"):
        return read_labels(Path(given), ids, root)
    folders = (id_.split("/") for id_ in ids if given == "folders")
    return FileLabels({"/".join(parts): parts[0] for parts in folders if len(parts) > 1}, ())
