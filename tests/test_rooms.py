"""The rooms of the code: the picture of them shows the imports that there are, and every module is tested where its room says."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/rooms.svg"
SVG = "{http://www.w3.org/2000/svg}"
PACKAGES = ("backbone", "training", "service", "dinodex")
SERVICE = sorted(path for path in (ROOT / "service").rglob("*.py"))
MODULES = [path for path in SERVICE if path.name != "__init__.py"]
FOLDERS = sorted({path.parent for path in MODULES})

Edge = tuple[str, str]
Point = tuple[float, float]


@cache
def picture() -> ElementTree.Element:
    return ElementTree.parse(PICTURE).getroot()


def boxes() -> dict[str, tuple[float, float, float, float]]:
    """Return left, top, right and bottom of each room's box."""
    found = {}
    for group in picture().iter(f"{SVG}g"):
        if room := group.get("data-room"):
            rect = group.find(f"{SVG}rect")
            assert rect is not None
            x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            found[room] = (x, y, x + width, y + height)
    return found


def arrows() -> dict[Edge, list[Point]]:
    """Return the corners of each arrow's path, rounded ones as they would be without."""
    found = {}
    for path in picture().iter(f"{SVG}path"):
        if source := path.get("data-from"):
            found[source, path.attrib["data-to"]] = corners(path.attrib["d"])
    return found


def corners(d: str) -> list[Point]:
    points: list[Point] = []
    for command, rest in re.findall(r"([MVHQ])([-\d. ]+)", d):
        numbers = [float(number) for number in rest.split()]
        if command == "M":
            points.append((numbers[0], numbers[1]))
        elif command == "V":
            points.append((points[-1][0], numbers[0]))
        elif command == "H":
            points.append((numbers[0], points[-1][1]))
        else:
            points += [(numbers[0], numbers[1]), (numbers[2], numbers[3])]
    return points


def room_of(module: str) -> str | None:
    """Return the innermost room that a module is in; None for what joins packages and imports nothing."""
    beside = {
        group.get("data-beside"): group.attrib["data-room"]
        for group in picture().iter(f"{SVG}g")
        if group.get("data-beside")
    }
    if module in beside:
        return beside[module]
    return max((room for room in boxes() if f"{module}.".startswith(f"{room}.")), key=len, default=None)


@cache
def imports() -> frozenset[Edge]:
    """Return which room imports which, directly."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = room_of(module), room_of(imported)
            assert source is not None, f"{module} is in no room of {PICTURE.name}"
            assert target is not None, f"{imported} is in no room of {PICTURE.name}"
            found.add((source, target))
    return frozenset(edge for edge in found if edge[0] != edge[1])


def reached(room: str, edges: frozenset[Edge]) -> set[str]:
    """Return the rooms that a room imports, and that those import."""
    found, last = set[str](), {room}
    while last := {target for source, target in edges if source in last} - found:
        found |= last
    return found


def test_every_room_has_a_box_and_every_box_is_a_room() -> None:
    rooms = {".".join(path.relative_to(ROOT).parts) for path in FOLDERS}
    rooms |= {f"service.{path.stem}" for path in MODULES if path.parent == ROOT / "service"}
    rooms = {room_of(room) or room for room in rooms - {"service"}}
    shown = boxes().keys()
    assert rooms - shown == set(), "rooms that docs/rooms.py does not show"
    for room in shown:
        path = ROOT / room.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), f"docs/rooms.py shows {room}, which is not there"


def test_the_arrows_are_the_imports() -> None:
    edges = imports()
    implied = {(a, b) for a, b in edges if any(b in reached(c, edges) for source, c in edges if source == a and c != b)}
    assert edges - implied - arrows().keys() == set(), "imports that docs/rooms.py shows no arrow for"
    assert arrows().keys() - edges == set(), "arrows of docs/rooms.py without an import"
    assert arrows().keys() & implied == set(), "arrows of docs/rooms.py that a longer way implies"


def test_arrows_lead_down_from_box_to_box_and_cross_no_other() -> None:
    placed = boxes()
    for (source, target), points in arrows().items():
        assert points[0][1] == placed[source][3] < placed[target][1] == points[-1][1] + 1, f"{source} -> {target}"
        for room, x in ((source, points[0][0]), (target, points[-1][0])):
            assert placed[room][0] < x < placed[room][2], f"{source} -> {target} misses {room}"
        assert all(a[1] <= b[1] for a, b in pairwise(points)), f"{source} -> {target} turns up"
        crossed = [room for room in placed.keys() - {source, target} if crosses(points, placed[room])]
        assert crossed == [], f"{source} -> {target}"


def crosses(points: list[Point], box: tuple[float, float, float, float]) -> bool:
    left, top, right, bottom = box
    return any(
        min(a[0], b[0]) < right and max(a[0], b[0]) > left and min(a[1], b[1]) < bottom and max(a[1], b[1]) > top
        for a, b in pairwise(points)
    )


def test_the_picture_is_what_its_script_draws() -> None:
    drawn = subprocess.run([sys.executable, ROOT / "docs/rooms.py"], capture_output=True, text=True, check=True).stdout
    assert drawn == PICTURE.read_text(), "run: python docs/rooms.py > docs/rooms.svg"


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_says_in_a_sentence_or_two_what_it_is(folder: Path) -> None:
    said = docstring(folder / "__init__.py").partition("Tested elsewhere:")[0].strip()
    assert 1 <= len(re.findall(r"[.](?:\s|$)", said)) <= 2, said


def places_named(folder: Path) -> dict[str, list[str]]:
    """Return, by module, the tests that a room's docstring names: lines such as "`gate` in tests/service/http/test_auth.py"."""
    said = " ".join(docstring(folder / "__init__.py").partition("Tested elsewhere:")[2].split())
    found: dict[str, list[str]] = {}
    for entry in re.split(r"[;.](?=\s|$)", said):
        names, _, places = entry.partition(" in ")
        for name in re.findall(r"`(\w+)`", names):
            found[name] = re.findall(r"tests/[\w/]+\.py", places)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_tested_by_the_file_of_its_name_or_where_its_room_says(path: Path) -> None:
    name = path.relative_to(ROOT)
    own = ROOT / "tests" / name.parent / f"test_{path.stem}.py"
    elsewhere = places_named(path.parent).get(path.stem, [])
    if own.exists():
        assert not elsewhere, (
            f"{name} has {own.relative_to(ROOT)}: take it out of `Tested elsewhere` in {name.parent}/__init__.py"
        )
        return
    assert elsewhere, (
        f"{name} has no {own.relative_to(ROOT)}: write it, or say in {name.parent}/__init__.py where it is tested"
    )
    gone = [place for place in elsewhere if not (ROOT / place).exists()]
    assert not gone, f"{name.parent}/__init__.py says that {path.stem} is tested in {gone}, which is not there"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_tested_elsewhere_is_there(folder: Path) -> None:
    gone = places_named(folder).keys() - {path.stem for path in folder.glob("*.py")}
    assert not gone, f"{folder.relative_to(ROOT)}/__init__.py speaks of modules that are not there"


@pytest.mark.parametrize("path", SERVICE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_with_what_it_is(path: Path) -> None:
    words = docstring(path).split()
    assert words, f"{path.relative_to(ROOT)} has no docstring"
    assert words[0] != "What", f"{path.relative_to(ROOT)}: begin with the noun: {' '.join(words[:8])} ..."


OUTSIDE = sorted(
    path for folder in ("benchmarks", "examples", "docs", "tests") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_of_the_packages_from_outside_is_there(path: Path) -> None:
    """Benchmarks and faults run seldom, and nothing else looks at their imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names if not hasattr(module, alias.name)):
                importlib.import_module(f"{node.module}.{name}")
