"""Documents that tables can be wrong in are compared with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import load_settings
from service.settings_docs import page

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_the_one_that_the_settings_make() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page()


def test_every_setting_gives_the_reason_of_its_default() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `DINODEX_")]
    assert len(rows) > 15
    assert all("Default: " in row for row in rows)


def test_the_api_page_names_every_route_and_no_other(tmp_path: Path) -> None:
    app = create_app(load_settings(artifact=tmp_path, data=tmp_path, allow_anonymous=True))
    served = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = set()
    for methods, path in re.findall(r"`((?:GET|PUT|POST|PATCH|DELETE)[A-Z`, ]*) (/[^`?]+)`", text):
        named |= {f"{method} {path}" for method in re.findall(r"[A-Z]+", methods)}
    assert named == served


def test_every_error_code_of_the_command_line_is_documented() -> None:
    from dinodex import exits

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for code in (exits.USAGE, exits.BAD_DATA, exits.IO, exits.LOCKED, exits.CONFIG, exits.TERMINATED):
        assert re.search(rf"\b{code}\b", text)


def test_the_page_of_faults_names_those_that_have_tests_and_no_others() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = {number.lower() for number in re.findall(r"^\| ([STU]\d\d) \|", text, re.MULTILINE)}
    tested = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for numbers in re.findall(r"def test((?:_[stu]\d\d)+)_", path.read_text(encoding="utf-8")):
            tested |= set(numbers.strip("_").split("_"))
    assert named == tested


DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_of_ours_that_a_document_names_is_there(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    ours = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    for name in re.findall(r"`([\w./-]+\.py)`", text):  # a bare name stands for the folder that is spoken of
        assert (ROOT / name).is_file() if "/" in name else name in ours, name
    for name in re.findall(
        r"`((?:backbone|training|service|dinodex|tests|docs|benchmarks|examples)/[\w./-]*/?)`", text
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / document).parent / name).exists(), name
