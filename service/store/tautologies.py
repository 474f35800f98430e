"""Tautologies among filters: conditions that every point fulfils by their form alone, whatever is stored.

An empty filter is one, and so is what comes to the same: empty lists inside of it, "none of no values", a number within bounds that
cross. Asking for all is a question like another; a write by such a filter is mostly a program whose list of conditions came out empty.
"""

from __future__ import annotations

import math

from service.store.filters import Condition, Exists, Filter, Ids, Match, Period, Range


def is_tautology(condition: Condition) -> bool:
    """Say whether a condition can leave no point out."""
    if not isinstance(condition, Filter):
        return False
    return (
        all(is_tautology(each) for each in condition.must)
        and (not condition.should or any(is_tautology(each) for each in condition.should))
        and all(_is_contradiction(each) for each in condition.must_not)
    )


def _is_contradiction(condition: Condition) -> bool:
    """Say whether a condition can select no point."""
    match condition:
        case Filter(must, should, must_not):
            return (
                any(_is_contradiction(each) for each in must)
                or (bool(should) and all(_is_contradiction(each) for each in should))
                or any(is_tautology(each) for each in must_not)
            )
        case Ids(ids):
            return not ids
        case Match("label", values):
            return not any(isinstance(value, str) for value in values)  # a label is text
        case Match(_, values):
            return not values
        case Range("label"):
            return True
        case Range(_, bounds) | Period(_, bounds):
            return _cross(bounds)
        case Exists():
            return False


def _cross(bounds: tuple[tuple[str, int | float], ...]) -> bool:
    """Say whether no number keeps all of these bounds."""
    least = max((bound for sign, bound in bounds if sign.startswith(">")), default=-math.inf)
    most = min((bound for sign, bound in bounds if sign.startswith("<")), default=math.inf)
    return least > most or (least == most and any(bound == least and len(sign) == 1 for sign, bound in bounds))
