"""The command `dinodex demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dinodex.table import print_table


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(demo)


def demo(
    data: Annotated[
        str | None,
        typer.Option(
            help="A folder of class folders, or imagenette. Default: Fashion-MNIST where installed, else digits."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for everything it writes.")] = Path("demo-out"),
    train_s: Annotated[float, typer.Option(help="Seconds of training.", min=1.0)] = 120.0,
) -> None:
    """Run the whole path on real images in minutes: train, export, index, serve, classify, search, cluster, and a report.

    Example: dinodex demo --data photos/ --train-s 20
    """
    from training.processes.launcher import refuse_malformed

    refuse_malformed(os.environ)
    try:
        from dinodex.demo import run_demo
    except ModuleNotFoundError as error:
        from backbone.errors import NotInstalled

        message = f"the demo runs every part of dinodex, and {error.name} is missing; run: pip install 'dinodex[all]'."
        raise NotInstalled(message) from error

    measured = run_demo(data, out, say=typer.echo, train_s=train_s)
    print_table(measured.rows[0], measured.rows[1:])
