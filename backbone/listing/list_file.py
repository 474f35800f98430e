"""The list file: a `.txt` with the path of an image on each line, relative to the list; what is clear is taken, all else is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import DataInvalid, StorageFailed
from backbone.listing.folder_walk import Scope
from backbone.listing.left_out import LeftOut
from backbone.listing.text_file import is_text, read_lines
from backbone.listing.written_path import FORMS, Form, Readings, shown

SUFFIX = ".txt"


@dataclass(frozen=True)
class NamedFiles:
    """The files that a list names, by their paths below a root that holds them all; and what a person has to know about it."""

    root: Path
    paths: tuple[str, ...]
    left_out: LeftOut
    notes: tuple[str, ...]


def read_list(file: Path, scope: Scope) -> NamedFiles:
    """Read a list and find its files; of the scope the patterns alone count, for what is named is wanted.

    Raises:
        DataInvalid: not a `.txt`, no text, or a line that names no file, or several.
        StorageFailed: the list, or a folder that it names, cannot be read.
    """
    if file.suffix.lower() != SUFFIX:
        raise DataInvalid(f"{file} is a file, but not a list; name a folder, or a .txt file with one path a line.")
    files = _Files(file)
    lines = read_lines(file, "name a folder of images or a list file")
    named = [files.find(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    root, relative = _below_a_root(file.parent, files.folder, list(dict.fromkeys(named)))
    left_out, paths = LeftOut(), []
    for path in relative:
        if (pattern := scope.excluding(path.split("/"))) is not None:
            left_out.excluded[pattern.text] += 1
        else:
            paths.append(path)
    again = len(named) - len(relative)
    notes = (f"{file}: lines that name a file again: {again:,}",) if again else ()
    return NamedFiles(root, tuple(paths), left_out, notes)


def _below_a_root(root: Path, folder: Path, files: list[Path]) -> tuple[Path, list[str]]:
    """Return the list's folder, or where a file lies outside, the folder that holds them all; and the files' paths below it.

    So ids never start with `..`. `folder` is the absolute form of `root`, as the files are.
    """
    if not all(file.is_relative_to(folder) for file in files):
        root = folder = Path(os.path.commonpath([folder, *(file.parent for file in files)]))
    return root, [file.relative_to(folder).as_posix() for file in files]


class _Files:
    """Finds files on the disk by the lines of one list."""

    def __init__(self, file: Path) -> None:
        self._file = file
        folder = file.parent.absolute()
        self.folder = folder.resolve() if ".." in folder.parts else folder
        self._readings = Readings(self.folder, self.folder)
        self._names: dict[tuple[Path, Form], dict[str, list[str]]] = {}

    def find(self, number: int, line: str) -> Path:
        """Return the file that a line names, as an absolute path."""
        found = next((files for files in self._meant(line) if files), None)
        if found is None:
            raise self._missing(number, line)
        if len(found) > 1:
            names = " or ".join(sorted(map(str, found)))
            raise DataInvalid(f"{self._at(number)}: {shown(line)} may be {names}; write it as the file is named.")
        return found.pop()

    def _meant(self, line: str) -> Iterator[set[Path]]:
        """Give the files that the line may mean, those of the nearest reading first."""
        if os.path.isfile(path := self._place(line)):  # noqa: PTH113 - Path.is_file raises where a name is too long
            yield {path}
        readings = [{self._place(text) for text in reading} for reading in self._readings.of(line)]
        for reading in readings:
            yield {path for path in reading if os.path.isfile(path)}  # noqa: PTH113
        for form in FORMS:
            for reading in readings:
                yield {file for path in reading for file in self._alike(path, form)}

    def _place(self, text: str) -> Path:
        """Return where a path relative to the list lies."""
        return Path(os.path.normpath(self.folder / text))

    def _alike(self, path: Path, form: Form) -> set[Path]:
        """Return the files whose path is this one in a form."""
        there = next(folder for folder in path.parents if os.path.isdir(folder))  # noqa: PTH112
        found = {there}
        for part in path.relative_to(there).parts:
            found = {folder / name for folder in found for name in self._named(folder, form).get(form(part), ())}
        return {path for path in found if os.path.isfile(path)}  # noqa: PTH113

    def _named(self, folder: Path, form: Form) -> dict[str, list[str]]:
        """Return the names in a folder by their form; none where it is no folder that can be read."""
        if (folder, form) not in self._names:
            names = self._names[folder, form] = {}
            try:
                there = os.listdir(folder)  # noqa: PTH208
            except OSError:
                there = []
            for name in there:
                names.setdefault(form(name), []).append(name)
        return self._names[folder, form]

    def _missing(self, number: int, line: str) -> DataInvalid | StorageFailed:
        path = self._place(line.strip())
        try:
            path.stat()
        except PermissionError as error:
            return StorageFailed(f"{self._at(number)}: cannot read {path}: {error.strerror}; check the permissions.")
        except (OSError, ValueError):
            pass
        else:
            return DataInvalid(f"{self._at(number)}: {shown(line.strip())} is no file; name a file on each line.")
        if not is_text(line):
            return DataInvalid(f"{self._at(number)} is not UTF-8 text, and names no file; save the list as UTF-8.")
        return DataInvalid(f"{self._at(number)}: {shown(line.strip())} is not there; paths are relative to the list.")

    def _at(self, number: int) -> str:
        return f"{self._file}, line {number}"
