"""The path of a source as a point keeps it: itself where it is text, or its `file:` URI where bytes of it are no UTF-8.

In the job a path opens its file; on its way into the store and back it changes its form here. No absolute path begins as a URI does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_to_bytes

from service.errors import InvalidSource
from service.points import Source, Stored, check_source

_SCHEME = "file://"


def kept(source: Source) -> Source:
    """Return a source as it is stored. Raises InvalidSource where it cannot be."""
    try:
        check_source(source)
    except InvalidSource:
        source = replace(source, path=Path(source.path).as_uri())
        check_source(source)
    return source


def opened(known: Mapping[str, Stored]) -> dict[str, Stored]:
    """Return points by id as they are stored, with paths that open their files."""
    return {id_: _opened(stored) for id_, stored in known.items()}


def _opened(stored: Stored) -> Stored:
    if stored.source is None or not stored.source.path.startswith(_SCHEME):
        return stored
    path = os.fsdecode(unquote_to_bytes(stored.source.path.removeprefix(_SCHEME)))
    return replace(stored, source=replace(stored.source, path=path))
