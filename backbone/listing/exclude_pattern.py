"""The pattern of paths that a listing leaves out, as .gitignore has them.

`*`, `?` and `[...]` stand for letters of one name, as in a shell; `**` for any number of folders. A pattern without `/` fits a name
at any depth; one with `/` in front or inside fits the path below the source; with `/` at the end it fits folders alone. What fits is
left out with all that is in it. Upper and lower case differ; the two Unicode forms of an accented letter do not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self


@dataclass(frozen=True, slots=True)
class ExcludePattern:
    """One pattern; `globs` are its names, in order, with `**` for any number of them."""

    text: str  # as it was given
    globs: tuple[str, ...]
    folders_only: bool

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a pattern; any text is one, an empty one fits nothing."""
        path = unicodedata.normalize("NFC", text)
        globs = [name for name in path.split("/") if name not in ("", ".")]
        if globs and "/" not in path.rstrip("/"):
            globs[:0] = ["**"]
        return cls(text, tuple(globs), path.endswith("/"))

    def fits(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        """Tell whether the path of these names below the source is one that the pattern means."""
        if self.folders_only and not is_folder:
            return False
        return _fits([unicodedata.normalize("NFC", part) for part in parts], self.globs)


def _fits(parts: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_fits(parts[taken:], globs[1:]) for taken in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _fits(parts[1:], globs[1:])
