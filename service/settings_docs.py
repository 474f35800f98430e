"""The documentation of the settings, made from them: `python -m service.settings_docs > docs/configuration.md`."""

from __future__ import annotations

import sys

from service.settings import Settings

_HEAD = """# Configuration of the service

Every setting is an environment variable; `dinodex serve` has options for the first ones, which win over the environment. Secrets can be
given as files. This page is made from `service/settings.py` by `python -m service.settings_docs > docs/configuration.md`.

| variable | default | what it does, and why this default |
|---|---|---|
"""


def page() -> str:
    """Return the page: one row a setting, in the order in which they are declared."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else _shown(field.default)
        rows.append(f"| `DINODEX_{name.upper()}` | {default} | {field.description} |\n")
    return _HEAD + "".join(rows)


def _shown(default: object) -> str:
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return "1" if default else "0"
    if isinstance(default, tuple):
        return ",".join(default).lower()
    return f"{default:,}" if isinstance(default, int) and default >= 10_000 else str(default)


if __name__ == "__main__":
    sys.stdout.write(page())
