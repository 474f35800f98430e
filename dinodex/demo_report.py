"""The report of the demo, `report.html`: one file with its pictures inside, to be opened anywhere."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGES_SHOWN = 9  # neighbours or representatives in a row: what a screen is wide

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: .2rem; text-align: center; font-size: .75rem; width: 84px; vertical-align: top; }
figure img { width: 80px; height: 80px; object-fit: contain; image-rendering: pixelated; border: 3px solid #ddd; }
figure.query img { border-color: #36c; } figure.right img { border-color: #2a2; } figure.wrong img { border-color: #c33; }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
svg { width: 100%; height: auto; background: #fafafa; border: 1px solid #ddd; }
"""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; `kind` is query, right, wrong or empty."""

    path: Path
    caption: str
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """A titled row of pictures."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Curve:
    """Points (x, y) of one measured quantity."""

    name: str
    unit: str
    points: Sequence[tuple[float, float]]


def write_report(
    path: Path,
    *,
    why: str,
    facts: Sequence[Sequence[str]],
    curves: Sequence[Curve],
    searches: Sequence[Row],
    clusters: Sequence[Row],
) -> None:
    """Write the report.

    Args:
        path: of the HTML file.
        why: which data and why.
        facts: the table that the demo prints; its first row is the heading.
        curves: of the training run.
        searches: a query and its neighbours each.
        clusters: representatives of a cluster each.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>dinodex demo</title>",
        f"<style>{_STYLE}</style></head><body><h1>dinodex demo</h1><p>Data: {html.escape(why)}.</p>",
        "<h2>What was measured</h2>",
        _table(facts),
        "<h2>Training</h2>",
        *(_chart(curve) for curve in curves if len(curve.points) > 1),
        "<h2>Held-out images beside their nearest neighbours</h2>",
        "<p>Blue: the query. Green: a neighbour of the same class. Red: of another class.</p>",
        *(_row(row) for row in searches),
        "<h2>Clusters and their representatives</h2>",
        *(_row(row) for row in clusters),
        "</body></html>",
    ]
    path.write_text("\n".join(parts), encoding="utf-8", errors="backslashreplace")  # names of files


def read_curves(metrics: Path, columns: Iterable[tuple[str, str]]) -> list[Curve]:
    """Read (column, unit) pairs of a run's `metrics.csv` against its `step`; empty cells are left out."""
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Curve(name, unit, [(float(row["step"]), float(row[name])) for row in rows if row.get(name)])
        for name, unit in columns
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td{_numeric(cell)}>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:]
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _numeric(cell: str) -> str:
    return " class='number'" if cell[:1].isdigit() else ""


def _chart(curve: Curve) -> str:
    width, height, margin = 640, 180, 46
    xs, ys = [x for x, _ in curve.points], [y for _, y in curve.points]
    low, high = min(ys), max(ys)
    span_x, span_y = max(max(xs) - min(xs), 1e-9), max(high - low, 1e-9)
    plotted = " ".join(
        f"{margin + (x - min(xs)) / span_x * (width - margin - 10):.1f},"
        f"{height - 24 - (y - low) / span_y * (height - 40):.1f}"
        for x, y in curve.points
    )
    name = html.escape(f"{curve.name}{f' ({curve.unit})' if curve.unit else ''}")
    return (
        f"<h3>{name}</h3><svg viewBox='0 0 {width} {height}' role='img' aria-label='{name} over the steps'>"
        f"<polyline points='{plotted}' fill='none' stroke='#36c' stroke-width='2'/>"
        f"<g font-size='11' fill='#555'><text x='4' y='20'>{high:.3g}</text><text x='4' y='{height - 26}'>{low:.3g}</text>"
        f"<text x='{margin}' y='{height - 8}'>step {min(xs):.0f}</text>"
        f"<text x='{width - 10}' y='{height - 8}' text-anchor='end'>step {max(xs):.0f}</text></g></svg>"
    )


def _row(row: Row) -> str:
    figures = "".join(
        f"<figure class='{picture.kind}'><img alt='{html.escape(picture.caption)}' src='{_data_uri(picture.path)}'>"
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
        for picture in row.pictures[: IMAGES_SHOWN + 1]
    )
    return f"<h3>{html.escape(row.title)}</h3><div>{figures}</div>"


def _data_uri(path: Path) -> str:
    kinds = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp"}
    kind = kinds.get(path.suffix.lower(), "png")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
