"""Names of files as text for people: on Linux a name is bytes, and need not be UTF-8.

Python stands a lone surrogate for each byte that is none. Such a text opens the file, but no UTF-8 can hold it: what is only read by
people (a model card, a report) takes the name from here.
"""

from __future__ import annotations

import os


def readable(name: str | os.PathLike[str]) -> str:
    r"""Return the name with each byte that is not UTF-8 written as `\xe9`; other names are returned as they are."""
    return os.fsencode(name).decode(errors="backslashreplace")
