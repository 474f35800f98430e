"""Values of keys as text: read from TOML or a `key=value` override as the type of the key, and written as TOML."""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal

from training.errors import ConfigInvalid

AS_NAMED = "surrogateescape"  # how a text becomes bytes and back: a path in it may have bytes that are not UTF-8
PATHS = ("init",)  # keys that name a file
UNSET = ("auto", "none")  # how a key is handed back to the recipe, or a limit taken away, on the command line


def read_value(key: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    """Read a value of TOML, or the text of an override, as the annotated type."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in UNSET):
            return None
        return read_value(key, value, next(choice for choice in choices if choice is not type(None)))
    if origin is Literal:
        if str(value) in choices:
            return str(value)
        raise ConfigInvalid(f"{key} is one of {', '.join(choices)}, not {value!r}.")
    if origin is tuple and choices[-1] is Ellipsis:
        return _several(key, value, choices[0])
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or len(parts) != len(choices):
            raise ConfigInvalid(f"{key} is {len(choices)} numbers, for instance {key}=0.4,1.0, not {value!r}.")
        return tuple(read_value(key, part, choice) for part, choice in zip(parts, choices, strict=True))
    return _scalar(key, value, hint)


def _several(key: str, value: Any, choice: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """Read any number of values: a list of TOML, or text with commas between them; empty text is none."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise ConfigInvalid(f"{key} is a list, for instance {key}=first,second, not {value!r}.")
    return tuple(read_value(key, part, choice) for part in value)


def _scalar(key: str, value: Any, kind: type) -> Any:  # noqa: ANN401
    words = {"true": True, "false": False}
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise ConfigInvalid(f"{key} is true or false, not {value!r}.")
    if kind is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return _text(key, str(value))
    acceptable = (int, str) if kind is int else (int, float, str)
    try:
        if isinstance(value, acceptable) and not isinstance(value, bool):
            number = kind(value)
            if abs(number) < float("inf"):  # also false for NaN
                return number
    except ValueError:
        pass
    name = {"int": "a whole number", "float": "a number"}.get(kind.__name__, kind.__name__)
    raise ConfigInvalid(f"{key} is {name}, not {value!r}.")


def _text(key: str, text: str) -> str:
    """Only a path may have bytes that are not UTF-8: any other text goes into files and services that cannot hold them."""
    if key not in PATHS and any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigInvalid(f"{key} is {text!r}, which is not UTF-8 text; write it in UTF-8.")
    return text


def write_value(value: Any) -> str:  # noqa: ANN401
    """Write a value that has one of the types of a key."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):  # TOML knows no surrogates, by which JSON would write what lies outside of 16 bits
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
