"""A path as somebody wrote it in a table or a list, and the files below a root that it may mean.

It may have blanks or quotes around it, backslashes, the folders above the root in front, or another case or Unicode form than the
file's name has. The nearest reading that fits a file counts; where that fits several, nobody can tell. A path that is the file's
but for blanks, quotes, slashes and dots is sure; any other reading is a guess.
"""

from __future__ import annotations

import functools
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Form = Callable[[str], str]


def composed(text: str) -> str:
    """Return the composed Unicode form: a Mac's file systems keep the other one."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """Return a form in which upper and lower case are one."""
    return composed(composed(text).casefold())


LONGEST_SHOWN = 100  # characters: a line of a terminal
FORMS: tuple[Form, ...] = (composed, folded)  # the nearer one first


def bare(text: str) -> str:
    """Return a text without the blanks and the quotes around it."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1].strip() if quoted else text


def shown(text: str) -> str:
    """Return a text as a line of a message may hold it."""
    short = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
    return short if short.isprintable() else repr(short)


class Readings:
    """Reads what was written in one file as paths relative to a root."""

    def __init__(self, root: Path, written_in: Path) -> None:
        here = Path(os.path.abspath(root))  # noqa: PTH100 - `absolute` keeps `..`
        self._roots = {here.parts, root.resolve().parts}
        self._written_in = Path(os.path.abspath(written_in))  # noqa: PTH100

    def of(self, text: str) -> list[set[str]]:
        """Return the paths with `/` that the text may mean, the nearest first; those in one set are equally near, the last a guess."""
        inner = bare(text)
        plain = posixpath.normpath(inner.replace("\\", "/")) if inner else ""
        return [{text}, {text.strip()}, {inner}, {plain}, set(self._below_the_root(plain))]

    def _below_the_root(self, plain: str) -> Iterator[str]:
        """Read it as absolute, as relative to the file that it stands in, and as relative to any folder above the root."""
        written = Path(plain).parts
        beside = Path(os.path.normpath(self._written_in / plain)).parts
        for root in self._roots:
            if beside[: len(root)] == root:
                yield "/".join(beside[len(root) :])
            for depth in range(1, min(len(written), len(root) + 1)):
                if written[:depth] == root[-depth:]:
                    yield "/".join(written[depth:])


class Meaning(NamedTuple):
    """The ids that a text may mean: none, or one, or several where it is not clear; and whether it says so without a guess."""

    ids: frozenset[str]
    is_sure: bool


class WrittenPaths:
    """Finds listed files by what was written for them."""

    def __init__(self, ids: Sequence[str], readings: Readings) -> None:
        self._ids = frozenset(ids)
        self._readings = readings

    def find(self, text: str) -> Meaning:
        """Return what the text means."""
        if text in self._ids:
            return Meaning(frozenset((text,)), is_sure=True)
        readings = self._readings.of(text)
        for reading in readings:
            if exact := self._ids & reading:
                return Meaning(exact, is_sure=reading is not readings[-1])
        for form, ids in self._by_form.items():
            for reading in readings:
                if found := frozenset(id_ for path in reading for id_ in ids.get(form(path), ())):
                    return Meaning(found, is_sure=False)
        return Meaning(frozenset(), is_sure=False)

    @functools.cached_property
    def _by_form(self) -> Mapping[Form, Mapping[str, list[str]]]:
        """The ids by each of their forms; made when the first text fits no id as it stands."""
        by_form: dict[Form, dict[str, list[str]]] = {form: {} for form in FORMS}
        for form, ids in by_form.items():
            for id_ in self._ids:
                ids.setdefault(form(id_), []).append(id_)
        return by_form
