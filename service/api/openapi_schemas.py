"""JSON schemas of filters (`service/store/filters.py`) and of payloads (`service/store/payloads.py`) for the OpenAPI document.

How deep either may be, and how long a list or a text, is said there alone.
"""

from __future__ import annotations

from typing import Any, Final

from service.store.filters import MAX_TEXT_CHARS

FILTER: Final[dict[str, Any]] = {"$ref": "#/components/schemas/Filter"}
PAYLOAD: Final[dict[str, Any]] = {"$ref": "#/components/schemas/Payload"}

_ANY_TEXT: Final = r"^[^\u0000]*$"
_CONDITIONS: Final = {"type": "array", "items": {"$ref": "#/components/schemas/Condition"}}
_TEXT: Final = {"type": "string", "maxLength": MAX_TEXT_CHARS, "pattern": _ANY_TEXT}
_NUMBER: Final = {"type": "number"}
_DATE: Final = {
    "type": "string",
    "description": "as RFC 3339 writes it; a day begins at 0:00 UTC",
    "anyOf": [{"format": "date-time"}, {"format": "date"}],
}
_SCALAR: Final = {**_TEXT, "type": ["string", "number", "boolean"]}


def _object(description: str = "", least: int | None = None, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON schemas
    """Return the schema of an object with these fields and no others: all of them, or `least` of them."""
    needed = {"required": list(fields)} if least is None else {"minProperties": least}
    said = {"description": description} if description else {}
    return {"type": "object", **said, "properties": fields, **needed, "additionalProperties": False}


def _filter(least: int, description: str) -> dict[str, Any]:
    return _object(description, least, must=_CONDITIONS, should=_CONDITIONS, must_not=_CONDITIONS)


def _bounds(bound: dict[str, Any]) -> dict[str, Any]:
    return _object("", 1, gt=bound, gte=bound, lt=bound, lte=bound)


_MATCH: Final = {"oneOf": [_object(value=_SCALAR), _object(any={"type": "array", "items": _SCALAR})]}
_FILTER_COMPONENTS: Final[dict[str, Any]] = {
    "Filter": {
        **_filter(0, "All of `must`, at least one of `should`, none of `must_not`."),
        "examples": [{"must": [{"key": "label", "match": {"any": ["cat", "dog"]}}]}],
    },
    "Condition": {
        "description": (
            "What a point has to fulfil; `key` is a field of the payload, or `label`, or the names on the way to a field "
            "inside of objects, with dots between them."
        ),
        "oneOf": [
            _object("The field has this value, or any of these.", key=_TEXT, match=_MATCH),
            _object("The field is a number within these bounds.", key=_TEXT, range=_bounds(_NUMBER)),
            _object("The field is a text that says an instant within these bounds.", key=_TEXT, range=_bounds(_DATE)),
            _object("The field is there and not null.", exists=_TEXT),
            _object("The point is one of these.", ids={"type": "array", "items": _TEXT}),
            _filter(1, "A filter within the filter."),
        ],
    },
}

_PAYLOAD_VALUE: Final = {"$ref": "#/components/schemas/PayloadValue"}
_PAYLOAD_FIELDS: Final = {"propertyNames": {"pattern": _ANY_TEXT}, "additionalProperties": _PAYLOAD_VALUE}
_PAYLOAD_COMPONENTS: Final[dict[str, Any]] = {
    "Payload": {"type": "object", "description": "What else is known of a point.", **_PAYLOAD_FIELDS},
    "PayloadValue": {
        "type": ["null", "boolean", "number", "string", "array", "object"],
        "description": "Any JSON; text without U+0000.",
        "pattern": _ANY_TEXT,
        "items": _PAYLOAD_VALUE,
        **_PAYLOAD_FIELDS,
    },
}

# in the order in which the document has them
COMPONENTS: Final[dict[str, Any]] = {**_FILTER_COMPONENTS, **_PAYLOAD_COMPONENTS}
