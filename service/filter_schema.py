"""The filter language of `service/filters.py` as the document shows it; how deep it and how long a list may be is said there alone."""

from __future__ import annotations

from typing import Any, Final

from service.filters import MAX_TEXT_CHARS

FILTER: Final[dict[str, Any]] = {"$ref": "#/components/schemas/Filter"}
_CONDITIONS: Final = {"type": "array", "items": {"$ref": "#/components/schemas/Condition"}}
_TEXT: Final = {"type": "string", "maxLength": MAX_TEXT_CHARS, "pattern": r"^[^\u0000]*$"}
_NUMBER: Final = {"type": "number"}
_SCALAR: Final = {**_TEXT, "type": ["string", "number", "boolean"]}


def _object(description: str = "", least: int | None = None, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schemas
    """Return the schema of an object with these fields and no others: all of them, or `least` of them."""
    needed = {"required": list(fields)} if least is None else {"minProperties": least}
    said = {"description": description} if description else {}
    return {"type": "object", **said, "properties": fields, **needed, "additionalProperties": False}


def _filter(least: int, description: str) -> dict[str, Any]:
    return _object(description, least, must=_CONDITIONS, should=_CONDITIONS, must_not=_CONDITIONS)


_BOUNDS: Final = _object("", 1, gt=_NUMBER, gte=_NUMBER, lt=_NUMBER, lte=_NUMBER)
_MATCH: Final = {"oneOf": [_object(value=_SCALAR), _object(any={"type": "array", "items": _SCALAR})]}
COMPONENTS: Final[dict[str, Any]] = {
    "Filter": {
        **_filter(0, "All of `must`, at least one of `should`, none of `must_not`."),
        "examples": [{"must": [{"key": "label", "match": {"any": ["cat", "dog"]}}]}],
    },
    "Condition": {
        "description": "What a point has to fulfil; `key` is a field of the payload, or `label`.",
        "oneOf": [
            _object("The field has this value, or any of these.", key=_TEXT, match=_MATCH),
            _object("The field is a number within these bounds.", key=_TEXT, range=_BOUNDS),
            _object("The field is there and not null.", exists=_TEXT),
            _object("The point is one of these.", ids={"type": "array", "items": _TEXT}),
            _filter(1, "A filter within the filter."),
        ],
    },
}
