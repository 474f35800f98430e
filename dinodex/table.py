"""The table of a command, or its JSON: whole values, whatever the width and the letters of where it is printed.

In a pipe or a file a row is as wide as it must be, for another command reads its ids; on a terminal what does not fit is folded,
never cut. What would act on the terminal or hide in it (escapes, directions of writing, marks without width) is shown by its number,
and so is a letter that the output cannot encode.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Sequence

import typer

UNLIMITED = 1_000_000  # columns: more than 1,000 ids of 512 characters, and nothing is padded to it
# controls, formats (directions, joiners), lone surrogates, separators of lines and paragraphs
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_LIKE_AN_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under these columns: numbers in short, an item of a list to a line, everything else as it is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.file.isatty():  # whatever FORCE_COLOR says of it
        console = Console(highlight=False, width=UNLIMITED, height=1)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=all(_is_number(row[index]) for row in rows))
    for row in rows:
        table.add_row(*(Text(_cell(value, console.encoding)) for value in row))
    console.print(table)


def print_json(value: object) -> None:
    """Print a value as JSON that can be read again, also where the output has no letters but those of ASCII."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not unicode))


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _cell(value: object, encoding: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return "\n".join(_cell(item, encoding) for item in value)
    return f"{value:.4f}" if isinstance(value, float) else shown(str(value), encoding)


def shown(text: str, encoding: str = "utf-8") -> str:
    """Return a text as it can be shown in an encoding; different texts look different, but for what letters have in common."""
    escaped = "".join(_visible(character, encoding) for character in text)
    if escaped == text and not _LIKE_AN_ESCAPE.search(text):
        return text
    return "".join(_visible(character, encoding) if character != "\\" else r"\\" for character in text)


def _visible(character: str, encoding: str) -> str:
    if unicodedata.category(character) in _UNSEEN:
        return (
            character.encode("ascii", "backslashreplace").decode()
            if ord(character) > 127
            else f"\\x{ord(character):02x}"
        )
    return character.encode(encoding, "backslashreplace").decode(encoding)
