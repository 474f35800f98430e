"""The CSV file of labels: rows `path,label`, matched with the files of a listing; what is clear is taken, and all else is said."""

from __future__ import annotations

import csv
import itertools
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from backbone.errors import DataInvalid
from backbone.listing.text_file import is_text, read_lines
from backbone.listing.written_path import LONGEST_SHOWN, Readings, WrittenPaths, shown

_DELIMITERS = (",", ";", "\t")  # the format's own first; the others are what spreadsheets and exports write
_PATH_HEADS = frozenset(
    (
        *("path", "file", "filename", "file_name", "file name", "filepath", "file_path", "id", "name"),
        *("image", "image_path", "image_name", "image_id", "img", "img_path"),
    )
)
_LABEL_HEADS = frozenset(("label", "labels", "class", "classes", "class_name", "category", "target", "tag", "species"))
_SHOWN = 3  # names in a line
_MAX_LABEL_CHARS = 512  # the store's rule, which `service.points` has; a label beyond it would cost the image


class Row(NamedTuple):
    """A row of the file: its number, from 1, and its two cells."""

    number: int
    path: str
    label: str


@dataclass(frozen=True)
class FileLabels:
    """Labels by the id of their file, and what a person has to know about how they were matched, a line each."""

    by_id: dict[str, str]
    notes: tuple[str, ...]


def read_labels(file: Path, ids: Sequence[str], root: Path) -> FileLabels:
    """Read the labels of the files with these ids below `root`.

    A path may be written relative to the root, to a folder above it or to the CSV file, or be absolute, with either slash and in
    another case. A first row of names of columns is a header; an empty label is none.

    Raises:
        PathMissing, StorageFailed: the file is not there, or cannot be read.
        DataInvalid: no text or no table, a row that fits several files, rows that disagree, a label that cannot be kept, or rows of
            which none fits.
    """
    lines = read_lines(file, "--labels takes folders, none or a CSV file of path,label")
    files = WrittenPaths(ids, Readings(root, file.parent))
    rows, header = _without_header(_table(file, lines, files), files)
    matched = _matched(file, rows, files)
    astray = [row for row, id_ in matched if id_ is None]
    if len(astray) == len(rows):
        raise DataInvalid(_no_fit(file, astray, ids, root))
    by_id = _agreed(file, [(row, id_) for row, id_ in matched if id_ is not None])
    unlabelled = [id_ for id_ in ids if id_ not in by_id]
    counts = (
        f"{file}: {len(unlabelled):,} of {len(ids):,} files without a label{_some(map(shown, unlabelled))}, "
        f"{len(astray):,} of {len(rows):,} rows without a file{_some(f'row {row.number}: {shown(row.path)}' for row in astray)}"
    )
    if header is None:
        return FileLabels(by_id, (counts,))
    columns = f"{shown(header.path)},{shown(header.label)}"
    return FileLabels(by_id, (f"{file}, row {header.number} ({columns}) is taken as a header", counts))


def _table(file: Path, lines: Sequence[str], files: WrittenPaths) -> list[Row]:
    """Read the rows with the first delimiter that gives two columns throughout and fits a file, or else two columns at least."""
    tables, whole = [], []
    for delimiter, skip_blanks in itertools.product(_DELIMITERS, (False, True)):
        tables.append(table := _cells(file, lines, delimiter, skip_blanks=skip_blanks))
        if all(len(cells) == 2 for _, cells in table):
            whole.append(rows := [Row(number, *cells) for number, cells in table])
            if any(files.find(row.path).ids for row in rows):
                return rows
    if whole:
        return whole[0]
    nearest = max(tables, key=lambda table: sum(len(cells) == 2 for _, cells in table))
    wrong = next(number for number, cells in nearest if len(cells) != 2)
    raise DataInvalid(f"{file}, row {wrong}: expected two columns, path,label.")


def _cells(file: Path, lines: Sequence[str], delimiter: str, *, skip_blanks: bool) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, with their numbers; blank cells behind the second are a spreadsheet's.

    Blanks before a cell matter where it is quoted: with them a quote is a letter.
    """
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, skipinitialspace=skip_blanks)
    table = []
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            while len(cells) > 2 and not cells[-1].strip():
                cells.pop()
            if any(cell.strip() for cell in cells):
                table.append((number, cells))
    except csv.Error as error:
        raise DataInvalid(f"{file}, row {number + 1}: {error}; a row is path,label.") from error
    return table


def _without_header(rows: list[Row], files: WrittenPaths) -> tuple[list[Row], Row | None]:
    if not rows or files.find(rows[0].path).ids:
        return rows, None
    path, label = rows[0].path.strip().lower(), rows[0].label.strip().lower()
    is_header = path in _PATH_HEADS or (label in _LABEL_HEADS and "." not in path)
    return (rows[1:], rows[0]) if is_header else (rows, None)


def _matched(file: Path, rows: Sequence[Row], files: WrittenPaths) -> list[tuple[Row, str | None]]:
    """Return each row with the id that it means, if any; no guess takes a file that another row is sure of."""
    meanings = [files.find(row.path) for row in rows]
    sure = {id_ for ids, is_sure in meanings if is_sure for id_ in ids}
    return [
        (row, None if not is_sure and ids and ids <= sure else _only(file, row, sorted(ids)))
        for row, (ids, is_sure) in zip(rows, meanings, strict=True)
    ]


def _only(file: Path, row: Row, found: Sequence[str]) -> str | None:
    if len(found) > 1:
        names = " or ".join(map(shown, found))
        raise DataInvalid(f"{file}, row {row.number}: {shown(row.path)} may be {names}; write it as the file is named.")
    if not found and not is_text(row.path):
        raise DataInvalid(f"{file}, row {row.number} is not UTF-8 text; save the file as UTF-8.")
    return found[0] if found else None


def _agreed(file: Path, matched: Iterable[tuple[Row, str]]) -> dict[str, str]:
    by_id: dict[str, str] = {}
    first: dict[str, Row] = {}
    for row, id_ in matched:
        before = first.setdefault(id_, row)
        label, other = _text_of(row.label), _text_of(before.label)
        if label != other:
            raise DataInvalid(
                f"{file}, rows {before.number} and {row.number} give {shown(id_)} the labels {other[:LONGEST_SHOWN]!r} and "
                f"{label[:LONGEST_SHOWN]!r}; keep one."
            )
        if label:
            by_id[id_] = _kept(file, row.number, label)
    return by_id


def _text_of(cell: str) -> str:
    """Return a label without the blanks around it; a quote behind blanks was no quote to the reader."""
    label = cell.strip()
    quoted = cell[:1].isspace() and len(label) > 1 and label[0] == label[-1] == '"'
    return label[1:-1].replace('""', '"').strip() if quoted else label


def _kept(file: Path, number: int, label: str) -> str:
    """Return a label that the store will take: UTF-8 text without control characters."""
    if not is_text(label):
        raise DataInvalid(f"{file}, row {number} is not UTF-8 text; save the file as UTF-8.")
    if len(label) > _MAX_LABEL_CHARS:
        raise DataInvalid(
            f"{file}, row {number}: the label has {len(label):,} characters; up to {_MAX_LABEL_CHARS} are kept."
        )
    if "\n" in label:
        raise DataInvalid(f"{file}, row {number}: the label has several lines; close its quote, or write one line.")
    bad = next((character for character in label if unicodedata.category(character) == "Cc"), None)
    if bad is not None:
        raise DataInvalid(
            f"{file}, row {number}: the label contains the character U+{ord(bad):04X}, which cannot be kept; leave it out."
        )
    return label


def _no_fit(file: Path, astray: Sequence[Row], ids: Sequence[str], root: Path) -> str:
    if not astray:
        return f"{file} has no rows; write path,label, one for each file."
    number, path, _ = astray[0]
    return (
        f"{file}: none of {len(astray):,} rows fits a file of {root}: row {number} names {shown(path)}, and the first file is "
        f"{shown(ids[0])}; write paths relative to the folder."
    )


def _some(names: Iterable[str]) -> str:
    all_names = list(names)
    first = all_names[:_SHOWN]
    return f" ({', '.join([*first, '...'] if len(all_names) > _SHOWN else first)})" if first else ""
