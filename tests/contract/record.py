"""Record what the service and the command line promise, as text files in a folder: `python tests/contract/record.py FOLDER`.

It reaches the code through `dinodex serve` and `dinodex.cli:main` alone, so that it runs unchanged on any version and two recordings
can be compared. `test_contract.py` compares one with `golden/`; where a promise is meant to change, record that folder anew.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sqlite3
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import answers
import command_line
import refusals
from service_process import Service, running

import dinodex


def main(folder: Path) -> None:
    """Record everything."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor() as pool:
        first, second = Path(root, "first"), Path(root, "second")
        [reader] = _keys(first, "read", 1)
        keys = _keys(second, "write", refusals.KEYS), _keys(second, "read", refusals.KEYS)
        order = pool.submit(refusals.record, second, *keys)
        with running(first, answers.SETTINGS) as service:
            answers.record(service, reader)
            (folder / "openapi.json").write_bytes(service.ask("", "GET", "/openapi.json").body)
            metrics = service.ask("", "GET", "/metrics").body.decode()
            _write(folder / "answers.txt", "\n".join(service.recorded[:-2]))
            _write(folder / "commands.txt", command_line.beside(f"http://127.0.0.1:{service.port}", first))
            _write(folder / "disk.txt", _disk(first))
        _write(folder / "refusals.txt", "\n".join(order.result().recorded))
        _write(folder / "log.txt", _log(service, order.result()))
    _write(folder / "metrics.txt", _metrics(metrics))
    _write(folder / "help.txt", command_line.helps())
    _write(folder / "settings.txt", _settings())


def _write(path: Path, text: str) -> None:
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _keys(data: Path, scope: str, count: int) -> list[str]:
    """Make API keys: one as an operator does, and the others like it, at once."""
    code, out, said = command_line.run("keys", "add", scope, "--data", str(data), "--scope", scope)
    assert code == 0, said
    path, secrets = data / "keys.json", [f"{scope}-{i}" for i in range(1, count)]
    held = json.loads(path.read_bytes())
    made = next(key for key in held["keys"] if key["name"] == scope)
    held["keys"] += [{**made, "name": each, "sha256": hashlib.sha256(each.encode()).hexdigest()} for each in secrets]
    path.write_text(json.dumps(held), encoding="utf-8")
    return [out.strip(), *secrets]


def _metrics(text: str) -> str:
    """Return the names, types, help texts, labels and bounds of our metrics, without their values."""
    found = set()
    for line in text.splitlines():
        if re.match(r"(# \w+ )?dinodex_\w+_(created|sum)\b", line):
            continue
        if line.startswith(("# HELP dinodex_", "# TYPE dinodex_")):
            found.add(line)
        elif bucket := re.match(r'(dinodex_\w+_bucket)\{.*(le="[^"]+")', line):
            found.add(f"{bucket[1]} {bucket[2]}")
        elif line.startswith("dinodex_"):
            found.add(line.rpartition(" ")[0])
    return "\n".join(sorted(found))


def _log(*services: Service) -> str:
    """Return the events that were logged, and those that stand in the code, with the names of their fields and levels."""
    seen = {f"{line['event']} ({line['level']}): {_shape(line)}" for service in services for line in service.logged()}
    written = set()
    for path in Path(dinodex.__file__).parents[1].joinpath("service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.") and node.args:
                fields = ", ".join(sorted(each.arg or "**" for each in node.keywords))
                written.add(f"{ast.unparse(node.func)}({ast.unparse(node.args[0])}): {fields}")
    return "\n".join([*sorted(seen), "", *sorted(written)])


def _shape(value: object) -> str:
    """Return the keys of an object, with those inside."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}{_shape(value[key])}" for key in sorted(value)) + "}"
    return f"[{_shape(value[0])}]" if isinstance(value, list) and value and isinstance(value[0], dict) else ""


def _disk(data: Path) -> str:
    """Return what lies in a data directory: its files, the tables, and the keys of what is JSON."""
    found = []
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        shape = _shape(json.loads(path.read_bytes())) if path.suffix == ".json" else ""
        found.append(f"{path.relative_to(data)} {shape}".rstrip())
    database = sqlite3.connect(f"file:{data / 'library.sqlite3'}?mode=ro", uri=True)
    tables = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    version = database.execute("PRAGMA user_version").fetchone()
    database.close()
    return "\n".join(
        [*found, "", f"user_version {version[0]}", *(f"{kind} {name}: {sql}" for kind, name, sql in tables)]
    )


def _settings() -> str:
    """Return the page of the settings; which program makes it is no promise."""
    page = Path(dinodex.__file__).parents[1] / "docs" / "configuration.md"
    return "\n".join(line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| "))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
