"""The filter language: JSON from a request, parsed into a tree. `service/store/filter_index.py` finds what it selects.

    {"must": [...], "should": [...], "must_not": [...]}       all of must, at least one of should, none of must_not
    {"key": "label", "match": {"value": "cat"}}               equal; "any": [...] for one of several
    {"key": "year", "range": {"gte": 1990, "lt": 2000}}       numbers
    {"key": "taken", "range": {"gte": "2024-01-01T00:00:00Z"}}     instants, as `service/store/instants.py` reads them
    {"exists": "year"}                                        there, and not null
    {"ids": ["a.png", "b.png"]}

A condition may itself be a filter. A key is a field at the top of the payload, spelled as it is there, or `label`; or one inside of
an object, with the names on the way to it before dots (`meta.cam`). Where a field at the top has that name, dots and all, it is
meant, and nothing else is. Text, numbers and booleans are three kinds: "1", 1 and true are different, 1 and 1.0 are the same. A list
in the payload matches if one of its items does, also a list of objects on the way to a field.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from service.errors import FilterInvalid
from service.store.instants import read_instant

MAX_DEPTH = 8  # nested filters; what people write by hand has two or three
MAX_CONDITIONS = 128  # in all; each is a query of its own
MAX_VALUES = 10_000  # ids or alternatives in one list; they travel as one parameter
MAX_TEXT_CHARS = 4096  # of a key or a value

_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
Scalar: TypeAlias = str | int | float | bool
Condition: TypeAlias = "Match | Range | Period | Exists | Ids | Filter"


@dataclass(frozen=True)
class Match:
    """The field equals one of these values."""

    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """The field is a number that keeps all these bounds: pairs of an SQL comparison sign and a number."""

    key: str
    bounds: tuple[tuple[str, int | float], ...]


@dataclass(frozen=True)
class Period:
    """The field is a text that says an instant which keeps all these bounds: pairs of a comparison sign and an instant."""

    key: str
    bounds: tuple[tuple[str, int], ...]

    @property
    def ends(self) -> tuple[int | None, int | None]:
        """The least and the greatest instant that can be within the bounds, None where there is no end."""
        least = max((bound for sign, bound in self.bounds if sign.startswith(">")), default=None)
        return least, min((bound for sign, bound in self.bounds if sign.startswith("<")), default=None)

    def holds(self, text: str) -> bool:
        """Say whether a text is an instant within the bounds."""
        instant = read_instant(text)
        return instant is not None and all(_COMPARE[sign](instant, bound) for sign, bound in self.bounds)


@dataclass(frozen=True)
class Exists:
    """The field is there and not null."""

    key: str


@dataclass(frozen=True)
class Ids:
    """The point is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """All of `must`, one of `should` (where there are any), none of `must_not`."""

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()


LABELLED = Exists("label")


def parse_filter(value: object) -> Filter:
    """Return the filter that a request's JSON says. Raises FilterInvalid, naming what is not understood."""
    return _Parser().filter(value, MAX_DEPTH)


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, value: object, depth: int) -> Filter:
        if depth == 0:
            raise FilterInvalid(f"the filter is nested deeper than {MAX_DEPTH} levels.")
        fields = _object(value, "filter", optional=("must", "should", "must_not"))
        parts = {name: tuple(self._condition(c, depth) for c in _list(fields[name], name)) for name in fields}
        return Filter(**parts)

    def _condition(self, value: object, depth: int) -> Condition:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterInvalid(f"the filter has more than {MAX_CONDITIONS} conditions.")
        if not isinstance(value, Mapping):
            raise FilterInvalid("a condition must be a JSON object.")
        if "match" in value:
            fields = _object(value, "condition", required=("key", "match"))
            return Match(_text(fields["key"], "key"), _alternatives(fields["match"]))
        if "range" in value:
            fields = _object(value, "condition", required=("key", "range"))
            return _range(_text(fields["key"], "key"), fields["range"])
        if "exists" in value:
            return Exists(_text(_object(value, "condition", required=("exists",))["exists"], "exists"))
        if "ids" in value:
            ids = _list(_object(value, "condition", required=("ids",))["ids"], "ids")
            return Ids(tuple(_text(i, "id") for i in ids))
        if value.keys() & {"must", "should", "must_not"}:
            return self.filter(value, depth - 1)
        raise FilterInvalid(
            "a condition has `match` or `range` with `key`, or `exists`, or `ids`; this one has neither."
        )


def _range(key: str, value: object) -> Range | Period:
    fields = _object(value, "range", optional=tuple(_SIGNS))
    if not fields:
        raise FilterInvalid("a range needs at least one of gt, gte, lt, lte.")
    if any(isinstance(bound, str) for bound in fields.values()):
        return Period(key, tuple((_SIGNS[name], _instant(bound)) for name, bound in fields.items()))
    return Range(key, tuple((_SIGNS[name], _number(bound)) for name, bound in fields.items()))


def _instant(value: object) -> int:
    if not isinstance(value, str):
        raise FilterInvalid("the bounds of a range must be numbers, or all of them dates.")
    instant = read_instant(value)
    if instant is None:
        raise FilterInvalid(f"the bound {value[:64]!r} is no date; write it as 2024-07-14T18:33:22Z or 2024-07-14.")
    return instant


def _alternatives(value: object) -> tuple[Scalar, ...]:
    if isinstance(value, Mapping) and "any" in value:
        return tuple(_scalar(v) for v in _list(_object(value, "match", required=("any",))["any"], "any"))
    return (_scalar(_object(value, "match", required=("value",))["value"]),)


def _object(
    value: object, what: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FilterInvalid(f"the {what} must be a JSON object.")
    for name in value:
        if name not in required and name not in optional:
            raise FilterInvalid(
                f"the {what} has an unknown field {str(name)[:64]!r}; known are {[*required, *optional]}."
            )
    for name in required:
        if name not in value:
            raise FilterInvalid(f"the {what} lacks the field {name!r}.")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise FilterInvalid(f"`{what}` must be a list.")
    if len(value) > MAX_VALUES:
        raise FilterInvalid(f"`{what}` has {len(value)} items; at most {MAX_VALUES} are allowed.")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise FilterInvalid(f"`{what}` must be a string.")
    if len(value) > MAX_TEXT_CHARS:
        raise FilterInvalid(f"`{what}` has {len(value)} characters; at most {MAX_TEXT_CHARS} are allowed.")
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise FilterInvalid(f"`{what}` contains U+0000 or a lone surrogate, which no stored text has.")
    return value


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterInvalid("the bounds of a range must be numbers, or all of them dates.")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise FilterInvalid("a number in a filter must be finite.")
        return value
    try:  # SQLite's integers have 64 bits; beyond, it reads the payload's numbers as floats too
        return value if -(2**63) <= value < 2**63 else float(value)
    except OverflowError:
        raise FilterInvalid("a number in a filter must be within the range of a double.") from None


def _scalar(value: object) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, "value")
    if isinstance(value, int | float):
        return _number(value)
    raise FilterInvalid("a value to match must be a string, a number or a boolean; for null use must_not exists.")
