"""The walk through a folder for files of some endings, past what is hidden, what systems leave and what is excluded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from backbone.errors import StorageFailed
from backbone.listing.exclude_pattern import ExcludePattern
from backbone.listing.left_out import LeftOut
from backbone.listing.system_folders import is_system_file, is_system_folder


@dataclass(frozen=True)
class Scope:
    """Which files below a root are looked at. The root's own name plays no part: whoever names a folder wants it."""

    endings: tuple[str, ...]  # in lower case
    exclude: tuple[ExcludePattern, ...] = ()

    def covers(self, relative: str) -> bool:
        """Tell whether a file of this path, with `/`, would be looked at if it were there."""
        parts = relative.split("/")
        return (
            parts[-1].lower().endswith(self.endings)
            and not is_hidden(parts[-1])
            and self.fitting(parts, is_folder=False) is None
            and all(self.enters(parts[:depth]) for depth in range(1, len(parts)))
        )

    def enters(self, parts: Sequence[str]) -> bool:
        """Tell whether the folder of this path is entered from the one above it."""
        name = parts[-1]
        return not is_hidden(name) and not is_system_folder(name) and self.fitting(parts, is_folder=True) is None

    def excluding(self, parts: Sequence[str]) -> ExcludePattern | None:
        """Return the first pattern that leaves a file out, by its own path or by that of a folder that it is in."""
        paths = [(parts[:depth], depth < len(parts)) for depth in range(1, len(parts) + 1)] if self.exclude else []
        fitting = (self.fitting(path, is_folder=is_folder) for path, is_folder in paths)
        return next((pattern for pattern in fitting if pattern is not None), None)

    def fitting(self, parts: Sequence[str], *, is_folder: bool) -> ExcludePattern | None:
        """Return the first pattern that fits this very path."""
        return next((pattern for pattern in self.exclude if pattern.fits(parts, is_folder=is_folder)), None)


def is_hidden(name: str) -> bool:
    """Tell whether a name is hidden, as by the custom of Unix."""
    return name.startswith(".")


@dataclass
class FolderWalk:
    """One walk through a folder; `left_out` counts what it passed, without entering it."""

    root: Path
    scope: Scope
    left_out: LeftOut = field(default_factory=LeftOut)

    def files(self) -> Iterator[str]:
        """Give the path of each file of the scope, relative to the root with `/`; a folder linked into itself is entered once.

        Raises:
            StorageFailed: a folder that is not left out cannot be read.
        """
        seen: set[tuple[int, int]] = set()
        for current, folders, names in os.walk(self.root, onerror=_refuse, followlinks=True):
            try:
                status = Path(current).stat()
            except OSError as error:
                _refuse(error)
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            parts = Path(current).relative_to(self.root).parts
            folders[:] = [name for name in sorted(folders) if self._enters(parts, name)]
            for name in sorted(names):
                if self._takes(parts, name):
                    yield "/".join((*parts, name))

    def _enters(self, parts: tuple[str, ...], name: str) -> bool:
        if is_hidden(name):
            return False
        if is_system_folder(name):
            self.left_out.system[name] += 1
            return False
        return not self._is_excluded((*parts, name), is_folder=True)

    def _takes(self, parts: tuple[str, ...], name: str) -> bool:
        if is_hidden(name) or self._is_excluded((*parts, name), is_folder=False):
            return False
        if name.lower().endswith(self.scope.endings):
            return True
        path = self.root.joinpath(*parts, name)
        if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114 - those of Path raise where they cannot look
            self.left_out.broken_links.append("/".join((*parts, name)))
        elif is_system_file(name):
            self.left_out.system[name.strip()] += 1
        else:
            self.left_out.add_file(name)
        return False

    def _is_excluded(self, parts: tuple[str, ...], *, is_folder: bool) -> bool:
        pattern = self.scope.fitting(parts, is_folder=is_folder)
        if pattern is not None:
            self.left_out.excluded[pattern.text] += 1
        return pattern is not None


def _refuse(error: OSError) -> NoReturn:
    raise StorageFailed(
        f"cannot read {error.filename}: {error.strerror}; check the permissions, or exclude it."
    ) from error
