"""Options that several commands have, read from their text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from backbone.value_range import ValueRange


def range_option(given: str) -> ValueRange:
    """Return the range of values of `--value-range`. Raises typer.BadParameter."""
    from backbone.value_range import ValueRange

    try:
        return ValueRange.of(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--value-range") from error
