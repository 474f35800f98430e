"""Every bound of every key, from both sides: what is refused, and the words that say so, against messages that were recorded."""

from __future__ import annotations

import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import TrainingConfig
from training.errors import ConfigInvalid

RECORDED: dict[str, str] = json.loads(Path(__file__).with_name("config_messages.json").read_text())
WHOLE = ("-1", "0", "1", "2", "1.5", "x")
NUMBERS = (
    "-1",
    "-5e-324",
    "0",
    "5e-324",
    "0.5",
    "0.5000000000000001",
    "0.9",
    "0.9000000000000001",
    "0.9999999999999999",
    "1",
)
NUMBERS += ("1.0000000000000002", "2", "nan", "x")
PAIRS = ("0,1", "5e-324,1", "0.5,0.5", "0.5,0.1", "0.5,1.0000000000000002", "-1,1", "0.1", "0.1,x")
DEVICES = ("auto", "1", "2", "0", "-1", "1.5", "x")


def texts(key: str) -> tuple[str, ...]:
    """Values at, just inside of and just outside of the bounds that keys of this type have."""
    hint: Any = typing.get_type_hints(TrainingConfig)[key]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
    if key == "devices":
        return DEVICES
    if typing.get_origin(hint) is tuple:
        return PAIRS
    return {int: WHOLE, float: NUMBERS}.get(hint, ("x",))


def refusal(key: str, text: str) -> str | None:
    try:
        TrainingConfig.load(None, [f"{key}={text}"])
    except ConfigInvalid as error:
        return str(error)
    return None


@pytest.mark.parametrize("key", typing.get_type_hints(TrainingConfig))
def test_a_key_is_refused_in_the_recorded_words_and_only_beyond_its_bounds(key: str) -> None:
    found = {f"{key}={text}": message for text in texts(key) if (message := refusal(key, text)) is not None}
    assert found == {override: message for override, message in RECORDED.items() if override.startswith(f"{key}=")}


LIMIT = re.compile(r"give (a number (?:of at least (\S+)|from (\S+) to (\S+)|above (\S+)))\.$")
LIMITS = {
    override.partition("=")[0]: match
    for override, message in RECORDED.items()
    if (match := LIMIT.search(message)) is not None
}


def test_the_keys_that_have_bounds_are_these() -> None:
    assert len(LIMITS) == 35
    assert {key for key in LIMITS if LIMITS[key][3] is not None} == {
        *("held_out", "drop_path", "layer_scale", "horizontal_flip", "color_jitter", "grayscale", "solarize"),
        *("mask_probability", "momentum", "warmup"),
    }


@given(
    st.sampled_from(sorted(LIMITS)),
    st.one_of(st.integers(-3, 3), st.floats(-3, 3), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_any_number_is_taken_within_the_bounds_and_refused_with_them_outside(key: str, number: float) -> None:
    words, at_least, least, most, above = LIMITS[key].groups()
    value: float = int(number) if texts(key) is WHOLE else float(number)
    fits = value > float(above) if above else float(least or at_least) <= value <= float(most or "inf")
    assert refusal(key, repr(value)) == (None if fits else f"{key} is {value}; give {words}.")
