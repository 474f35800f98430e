"""What `service/payloads.py` takes, as the document shows it; how deep a payload and how long its text may be is said there alone."""

from __future__ import annotations

from typing import Any, Final

PAYLOAD: Final[dict[str, Any]] = {"$ref": "#/components/schemas/Payload"}
_TEXT: Final = r"^[^\u0000]*$"
_VALUE: Final = {"$ref": "#/components/schemas/PayloadValue"}
_FIELDS: Final = {"propertyNames": {"pattern": _TEXT}, "additionalProperties": _VALUE}
COMPONENTS: Final[dict[str, Any]] = {
    "Payload": {"type": "object", "description": "What else is known of a point.", **_FIELDS},
    "PayloadValue": {
        "type": ["null", "boolean", "number", "string", "array", "object"],
        "description": "Any JSON; text without U+0000.",
        "pattern": _TEXT,
        "items": _VALUE,
        **_FIELDS,
    },
}
