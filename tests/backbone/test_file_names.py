from __future__ import annotations

import os
from pathlib import Path

from backbone.file_names import readable


def test_u13_a_name_that_is_not_utf8_is_shown_with_its_bytes() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert readable(name) == "caf\\xe9.png"
    assert readable(Path("photos") / name) == "photos/caf\\xe9.png"


def test_u13_any_other_name_is_shown_as_it_is() -> None:
    for name in ("caf\u00e9.png", "\U0001f600.png", "a\\xe9.png", ""):
        assert readable(name) == name
