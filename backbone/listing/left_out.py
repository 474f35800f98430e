"""Counts of what a listing left out, and the words that say so; hidden files and folders are not counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePath

KINDS_SHOWN = 6  # of each sort of thing, the most frequent: the line stays a line
_ENDING = re.compile(r"\.[\w~+-]{1,12}")  # what follows the last dot of a sentence is no ending


@dataclass(frozen=True)
class LeftOut:
    """What of a folder is no candidate: files by ending (in lower case; empty without one), and what was not entered by why."""

    endings: Counter[str] = field(default_factory=Counter)
    system: Counter[str] = field(default_factory=Counter)  # files and folders that systems leave, by name
    excluded: Counter[str] = field(default_factory=Counter)  # files and folders by the pattern that they fit
    broken_links: list[str] = field(default_factory=list)  # perhaps to folders that are not mounted

    def add_file(self, name: str) -> None:
        """Count a file by its ending."""
        ending = PurePath(name).suffix.lower()
        self.endings[ending if _ENDING.fullmatch(ending) else ""] += 1

    def __str__(self) -> str:
        """Return one line, the most frequent first; empty where nothing was left out."""
        parts = [_by_ending(self.endings)] if self.endings else []
        if self.broken_links:
            links = "1 link" if len(self.broken_links) == 1 else f"{len(self.broken_links):,} links"
            parts.append(f"{links} to nothing ({_some(self.broken_links)})")
        if count := self.system.total():
            parts.append(f"{_entries(count)} of the system ({_some(_ordered(self.system))})")
        if count := self.excluded.total():
            parts.append(f"{_entries(count)} by exclude ({_some(_ordered(+self.excluded))})")
        return f"left out: {'; '.join(parts)}" if parts else ""


def _by_ending(endings: Counter[str]) -> str:
    ordered = _ordered(endings)
    shown, others = ordered[:KINDS_SHOWN], ordered[KINDS_SHOWN:]
    words = [f"{endings[ending]:,} {ending or 'without an ending'}" for ending in shown]
    if others:
        words.append(f"{sum(endings[ending] for ending in others):,} of {len(others):,} other endings")
    return ", ".join(words)


def _ordered(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], not name, name))


def _entries(count: int) -> str:
    return "1 file or folder" if count == 1 else f"{count:,} files or folders"


def _some(names: list[str]) -> str:
    more: Iterable[str] = ["..."] if len(names) > KINDS_SHOWN else []
    return ", ".join([*names[:KINDS_SHOWN], *more])
