"""The commands `dinodex backup` and `dinodex restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.store.backup import Copied


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    data: Annotated[Path, typer.Option(help="Data directory; a service may be running on it.")],
    out: Annotated[Path, typer.Option(help="File that the copy is written to.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Copy all collections as they are at this moment to one file, and compare every point of it with its checksum.

    Example: dinodex backup --data data/ --out backups/monday.sqlite3
    """
    from service.store.backup import backup as run

    _tell(run(data, out, force), out)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `dinodex backup` wrote.")],
    data: Annotated[Path, typer.Option(help="Data directory that no service is running on; made where it is missing.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the library that is there.")
    ] = False,
) -> None:
    """Make a data directory hold what a backup holds, after comparing every point of it with its checksum.

    Example: dinodex restore backups/monday.sqlite3 --data data/ --replace
    """
    from service.store.backup import restore as run

    _tell(run(file, data, replace), file)


def _tell(copied: Copied, file: Path) -> None:
    for name, points in copied.points.items():
        typer.echo(f"{name}: {points:,} points")
    typer.echo(f"{file}: {copied.size_bytes / 1e6:.1f} MB, sha256 {copied.sha256}")
