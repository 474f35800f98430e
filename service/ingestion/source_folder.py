"""A source folder of the index job: which points came from its files, however its path was spelled when they came.

New points keep the real path of their folder. An older one, or a path through a symlink, a bind mount or `..`, is recognised by the
device and inode of a folder above the file; below the folder itself a path is what the list says, so that a symlinked subfolder
stays a part of it, also while its target is away.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from service.errors import SourceUnreachable

_UP = ".."


class SourceFolder:
    """The folder that a list's ids are relative to."""

    def __init__(self, root: Path) -> None:
        """Take a folder that is there.

        Raises:
            SourceUnreachable: it is there no more, or cannot be looked at.
        """
        try:
            status = root.stat()
        except OSError as error:
            raise SourceUnreachable(f"{root} cannot be looked at ({error.strerror}); mount its disk.") from error
        self.device = status.st_dev
        self._identity = status.st_dev, status.st_ino
        self.path = root.resolve()
        self._below = str(self.path / "_")[:-1]  # with one separator at its end, also where it is the root of all
        self._located: dict[Path, PurePath | None] = {}  # folders of other paths: where each lies below this one

    def path_of(self, relative: str) -> str:
        """Return the path that a point keeps of its file."""
        return self._below + relative

    def relative_of(self, path: str) -> str | None:
        """Return where a point's file lies below this folder, or None for one of another source."""
        if path.startswith(self._below) and f"/{_UP}/" not in path:  # nearly all; the rest takes ten times as long
            return path[len(self._below) :]
        written = Path(path)
        found = self._locate(written.parent)
        if found is None and _UP in written.parts:  # what a `..` was written behind may be gone
            found = self._locate(Path(os.path.normpath(written.parent)))
        return None if found is None else (found / written.name).as_posix()

    def _locate(self, folder: Path) -> PurePath | None:
        """Return where another path's folder lies below this one: the nearest folder above it that is this one decides."""
        climbed: list[Path] = []
        while folder not in self._located:
            if self._is_this(folder):
                self._located[folder] = PurePath()
            elif folder.name in ("", _UP):  # the end, or a name that says nothing of where it lies
                self._located[folder] = None
            else:
                climbed.append(folder)
                folder = folder.parent
        found = self._located[folder]
        for inner in reversed(climbed):
            found = self._located[inner] = None if found is None else found / inner.name
        return found

    def _is_this(self, folder: Path) -> bool:
        try:
            status = folder.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity


def is_missing(path: str) -> bool:
    """Say whether nothing is at a path. What cannot be looked at is not missing."""
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
