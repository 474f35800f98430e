"""The picture of the rooms, docs/rooms.svg: `python docs/rooms.py > docs/rooms.svg`.

Files are listed as they lie on the disk; boxes and arrows stand below, and tests/test_rooms.py compares them with the imports.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
WIDTH, EDGE = 1000, 16
FRAME_RIGHT = 786  # of the service; to the right of it lies training
NAME_PX, PHRASE_PX, FILES_PX = 14, 12, 11
CHAR_SHARE = 0.58  # of a font's size: the mean width of a character in the widest of the usual fonts
PAD, CORNER = 12, 7
INK, GREY, LINE, PAPER, FRAME = "#1f2937", "#64748b", "#64748b", "#ffffff", "#f8fafc"
BLUE, GREEN, AMBER, VIOLET = (
    ("#e8f0fe", "#8fb0e8"),
    ("#e6f4ea", "#8cc29d"),
    ("#fdf3e0", "#dcb871"),
    ("#f1ecfb", "#b3a0dd"),
)
LEGEND = "an arrow: imports; one that a longer way implies is left out"
PLAIN = ("#ffffff", "#b6c2d1")


@dataclass(frozen=True)
class Box:
    """A room: where it stands in its row, what it is for, and its colours."""

    room: str
    left: int
    right: int
    phrase: str
    colours: tuple[str, str] = PLAIN
    beside: str = ""  # a module that shares the box, for its smallness

    def files(self) -> list[str]:
        """Return the lines that list its modules, and those of the rooms in it."""
        folder = ROOT / self.room.replace(".", "/")
        lines = wrapped(", ".join(modules(folder)), self.right - self.left, FILES_PX)
        for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
            if f"{self.room}.{inner.name}" not in ROOMS:
                lines += wrapped(f"{inner.name}/: " + ", ".join(modules(inner)), self.right - self.left, FILES_PX)
        return lines

    def height(self) -> int:
        """Return how many pixels its text needs."""
        phrases = wrapped(self.phrase, self.right - self.left, PHRASE_PX)
        return 34 + 16 * len(phrases) + 14 * len(self.files())


@dataclass(frozen=True)
class Arrow:
    """An import: from x `start` of the lower edge of a box down to x of the upper edge of another.

    Each bend says below which row of boxes the line turns, at which share of the space there, and at which x it goes on.
    """

    source: str
    target: str
    start: int
    bends: tuple[tuple[int, float, int], ...] = ()


# Rows of the service from above, with the space below each.
ROWS: tuple[tuple[int, tuple[Box, ...]], ...] = (
    (28, (Box("service.serve", 40, 768, "the process: its port, its signals, the web server"),)),
    (34, (Box("service.app", 40, 768, "the wiring: which layer stands in front of which"),)),
    (
        48,
        (
            Box("service.api", 40, 460, "requests and responses, the OpenAPI document, the routes", BLUE),
            Box(
                "service.load_shedding",
                560,
                768,
                "refuses early what would come too late",
            ),
        ),
    ),
    (
        42,
        (
            Box("service.ingestion", 40, 290, "points on their way in: from a request, from a folder", BLUE),
            Box("service.lifespan", 320, 470, "what is open while it runs"),
        ),
    ),
    (30, (Box("service.library", 40, 392, "collections: store and index as one thing", GREEN),)),
    (
        34,
        (
            Box("service.analysis", 40, 392, "questions about all of a collection", GREEN),
            Box("service.memory_budget", 450, 610, "what the process may hold"),
        ),
    ),
    (
        50,
        (
            Box("service.store", 40, 212, "the truth: SQLite", AMBER),
            Box("service.index", 224, 396, "derived: FAISS", AMBER),
            Box("service.embedding", 410, 588, "from an image's bytes to its vector", VIOLET),
            Box("service.http", 600, 768, "connections, keys, bodies, limits", VIOLET),
        ),
    ),
    (
        44,
        (
            Box("service.points", 70, 340, "the types that rooms hand to each other"),
            Box(
                "service.settings",
                430,
                706,
                "every DINODEX_* variable, and the page of them",
                PLAIN,
                "service.settings_docs",
            ),
        ),
    ),
    (
        0,
        (
            Box("service.errors", 70, 320, "every refusal, with its code", PLAIN, "service.key_text"),
            Box("service.concurrency", 350, 568, "tools for threads and the event loop"),
            Box("service.metrics", 612, 768, "what Prometheus counts"),
        ),
    ),
)
DINODEX = Box("dinodex", EDGE, WIDTH - EDGE, "the command line, the client and the demo")
EVALUATION = Box("training.evaluation", 804, WIDTH - EDGE, "dinodex eval: scores on labelled images", BLUE)
TRAINING = Box("training", 804, WIDTH - EDGE, "a folder of images to a backbone", BLUE)
BACKBONE = Box("backbone", EDGE, WIDTH - EDGE, "networks, artifacts, decoding, and files that survive a crash")
ROOMS = {box.room for _, row in ROWS for box in row} | {"dinodex", "training.evaluation", "training", "backbone"}

BUS = (6, 0.42)  # the line between the floor of four and what stands below it, on which arrows to the same room join
ARROWS = (
    Arrow("dinodex", "service.serve", 250),
    Arrow("dinodex", "training.evaluation", 894),
    Arrow("training.evaluation", "training", 894),
    Arrow("training", "backbone", 894),
    Arrow("service.serve", "service.app", 404),
    Arrow("service.app", "service.api", 250),
    Arrow("service.app", "service.load_shedding", 664),
    Arrow("service.app", "service.memory_budget", 510),
    Arrow("service.api", "service.ingestion", 165),
    Arrow("service.api", "service.lifespan", 370),
    Arrow("service.api", "service.http", 430, ((2, 0.33, 690),)),
    Arrow("service.load_shedding", "service.lifespan", 600, ((2, 0.66, 420),)),
    Arrow("service.load_shedding", "service.http", 690),
    Arrow("service.ingestion", "service.library", 165),
    Arrow("service.ingestion", "service.embedding", 250, ((3, 0.45, 430),)),
    Arrow("service.lifespan", "service.library", 360),
    Arrow("service.lifespan", "service.embedding", 430),
    Arrow("service.library", "service.analysis", 216),
    Arrow("service.analysis", "service.store", 126),
    Arrow("service.analysis", "service.index", 310),
    Arrow("service.memory_budget", "service.embedding", 530),
    Arrow("service.store", "service.points", 140),
    Arrow("service.store", "backbone", 54),
    Arrow("service.index", "service.points", 300),
    Arrow("service.index", "backbone", 250, ((*BUS, 54),)),
    Arrow("service.index", "service.concurrency", 384),
    Arrow("service.embedding", "service.concurrency", 499, ((*BUS, 384),)),
    Arrow("service.embedding", "service.settings", 499, ((*BUS, 568),)),
    Arrow("service.embedding", "service.metrics", 499, ((*BUS, 738),)),
    Arrow("service.http", "service.concurrency", 640, ((*BUS, 384),)),
    Arrow("service.http", "service.settings", 640, ((*BUS, 568),)),
    Arrow("service.http", "service.metrics", 640, ((*BUS, 738),)),
    Arrow("service.points", "service.errors", 195),
    Arrow("service.settings", "service.errors", 460, ((7, 0.45, 290),)),
    Arrow("service.settings", "backbone", 590),
)


def modules(folder: Path) -> list[str]:
    """Return the names of the modules in a folder; none for a room that is one file."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Break a text into lines that fit a box."""
    most, lines = int((width - 2 * PAD) / (size * CHAR_SHARE)), [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return [line for line in lines if line]


class Picture:
    """All boxes with their heights, and the space between the rows."""

    def __init__(self) -> None:
        self.spans: dict[str, tuple[int, int]] = {}  # upper and lower edge of each box
        self.below: list[tuple[int, int]] = []  # upper edge and height of the space below each row
        y = self._place(DINODEX, EDGE, DINODEX.height()) + 24
        self.frame_top = y
        y += 34
        top = y
        for space, row in ROWS:
            height = max(box.height() for box in row)
            for box in row:
                self._place(box, y, height if box.files() else box.height())
            self.below.append((y + height, space))
            y += height + space
        self.frame_bottom = y + 20
        evaluation = self._place(EVALUATION, top, EVALUATION.height())
        self._place(TRAINING, evaluation + 36, TRAINING.height())
        self.height = self._place(BACKBONE, self.frame_bottom + 28, BACKBONE.height()) + EDGE

    def _place(self, box: Box, top: int, height: int) -> int:
        self.spans[box.room] = (top, top + height)
        return top + height

    def svg(self) -> Iterator[str]:
        """Yield the lines of the picture."""
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" '
            'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
        )
        yield (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 1 L10 5 L0 9 z" fill="{LINE}"/></marker></defs>'
        )
        yield f'<rect width="{WIDTH}" height="{self.height}" fill="{PAPER}"/>'
        yield (
            f'<rect x="{EDGE}" y="{self.frame_top}" width="{FRAME_RIGHT - EDGE}" height="{self.frame_bottom - self.frame_top}" '
            f'rx="10" fill="{FRAME}" stroke="#d5dde7"/>'
        )
        yield _text(40, self.frame_top + 22, "service", NAME_PX, INK, ' font-weight="600"')
        more = ' text-anchor="end" font-style="italic"'
        yield _text(768, self.frame_top + 22, LEGEND, FILES_PX, GREY, more)
        yield f'<g fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)">'
        yield from map(self._arrow, ARROWS)
        yield "</g>"
        for box in (DINODEX, *(box for _, row in ROWS for box in row), EVALUATION, TRAINING, BACKBONE):
            yield from self._box(box)
        yield "</svg>"

    def _box(self, box: Box) -> Iterator[str]:
        (top, bottom), (fill, stroke) = self.spans[box.room], box.colours
        beside = f' data-beside="{box.beside}"' if box.beside else ""
        yield f'<g data-room="{box.room}"{beside}>'
        yield (
            f'<rect x="{box.left}" y="{top}" width="{box.right - box.left}" height="{bottom - top}" rx="8" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'
        )
        x, y = box.left + PAD, top + 22
        yield _text(x, y, box.room.removeprefix("service."), NAME_PX, INK, ' font-weight="600"')
        for line in wrapped(box.phrase, box.right - box.left, PHRASE_PX):
            y += 16
            yield _text(x, y, line, PHRASE_PX, INK)
        y += 2
        for line in box.files():
            y += 14
            yield _text(x, y, line, FILES_PX, GREY)
        yield "</g>"

    def _arrow(self, arrow: Arrow) -> str:
        x, y = arrow.start, self.spans[arrow.source][1]
        path, end = f"M{x} {y}", self.spans[arrow.target][0] - 1
        for row, share, onward in arrow.bends:
            top, space = self.below[row]
            bend, step = round(top + share * space), CORNER if onward > x else -CORNER
            path += f" V{bend - CORNER} Q{x} {bend} {x + step} {bend} H{onward - step} Q{onward} {bend} {onward} {bend + CORNER}"
            x = onward
        return f'<path data-from="{arrow.source}" data-to="{arrow.target}" d="{path} V{end}"/>'


def _text(x: int, y: int, text: str, size: int, colour: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{more}>{escape(text)}</text>'


if __name__ == "__main__":
    sys.stdout.write("\n".join(Picture().svg()) + "\n")
