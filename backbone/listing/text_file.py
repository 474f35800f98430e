"""A text file that a person or a program of any system wrote, as lines."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from backbone.errors import DataInvalid, PathMissing, StorageFailed

# The longer mark first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile(r"\r\n|\n|\r")  # no others: a file name may hold what else Unicode takes for a line's end


def read_lines(file: Path, otherwise: str) -> list[str]:
    """Read the lines of a file in UTF-8, or in what its byte-order mark says.

    Without a mark, bytes that are not UTF-8 become lone surrogates, as in file names (PEP 383): they may be part of one.

    Args:
        file: the text file.
        otherwise: completes the message where there is none: what to name instead.

    Raises:
        PathMissing: there is no such file.
        DataInvalid: it is a directory, or no text.
        StorageFailed: it cannot be read.
    """
    text = _decoded(file, _bytes_of(file, otherwise))
    lines = _LINE_END.split(text)
    if "\0" in text:
        number = next(number for number, line in enumerate(lines, start=1) if "\0" in line)
        raise DataInvalid(f"{file}, line {number}: a NUL byte, which no text holds; save the file as UTF-8.")
    return lines


def is_text(line: str) -> bool:
    """Tell whether a line that was read holds no byte that is not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in line)


def _bytes_of(file: Path, otherwise: str) -> bytes:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise PathMissing(f"{file} does not exist; {otherwise}.") from error
    except IsADirectoryError as error:
        raise DataInvalid(f"{file} is a directory; {otherwise}.") from error
    except OSError as error:
        raise StorageFailed(f"cannot read {file}: {error.strerror}; check the permissions.") from error


def _decoded(file: Path, data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.removeprefix(mark).decode(encoding)
            except UnicodeDecodeError as error:
                raise DataInvalid(
                    f"{file} is not the {encoding.upper()} text that it says; save it as UTF-8."
                ) from error
    return data.decode("utf-8", errors="surrogateescape")
