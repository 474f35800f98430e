"""Instants, moments in time as RFC 3339 writes them: `2024-07-14T20:33:22.25+02:00`; and days, which begin at 0:00 UTC.

What has a time but no offset is taken for UTC, as most programs mean it that leave it out. Instants are compared as numbers, because as
texts only those with the same offset and as many digits have the right order.
"""

from __future__ import annotations

import datetime
import re

_DAY_NS = 86_400 * 10**9
_TIME = r"[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)?"
_WRITTEN = re.compile(rf"(\d{{4}})-(\d\d)-(\d\d)(?:{_TIME})?", re.ASCII)
FIRST_TEXT, LAST_TEXT = "0", ":"  # every instant lies between them as a text: it begins with a digit


def read_instant(text: str) -> int | None:
    """Return the nanoseconds since the year 1 (digits beyond are left out), or None where the text is no instant."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = found.groups()
    try:
        days = datetime.date(int(year), int(month), int(day)).toordinal()
    except ValueError:  # the 30th of February, the year 0
        return None
    if hour is None:
        return days * _DAY_NS
    if not (
        int(hour) < 24 and int(minute) < 60 and int(second) <= 60
    ):  # 60 is a leap second, and the next minute's first
        return None
    ahead = _minutes(offset)
    if ahead is None:
        return None
    seconds = (int(hour) * 60 + int(minute) - ahead) * 60 + int(second)
    return days * _DAY_NS + seconds * 10**9 + int((fraction or "0")[:9].ljust(9, "0"))


def texts_between(least: int | None, most: int | None) -> tuple[str, str]:
    """Return two texts between which, the second left out, every instant from `least` to `most` lies as it is written.

    The day that it is written with is at most one off: no offset is a day long.
    """
    first = FIRST_TEXT if least is None else _day(least // _DAY_NS - 1, FIRST_TEXT)
    return first, LAST_TEXT if most is None else _day(most // _DAY_NS + 2, LAST_TEXT)


def _minutes(offset: str | None) -> int | None:
    """Return how far a clock with this offset is ahead of UTC; None where no clock has it."""
    if offset is None or offset in "Zz":
        return 0
    hours, minutes = int(offset[1:3]), int(offset[4:])
    if hours > 23 or minutes > 59:
        return None
    return (60 * hours + minutes) * (-1 if offset[0] == "-" else 1)


def _day(ordinal: int, beyond: str) -> str:
    try:
        return datetime.date.fromordinal(ordinal).isoformat()
    except (ValueError, OverflowError):
        return beyond
