"""The command `dinodex serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(serve)


def serve(
    artifact: Annotated[
        list[Path] | None,
        typer.Option(
            help="Directory of an artifact; may be repeated, the first is the default. [env: DINODEX_ARTIFACT]"
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Directory of the collections. [env: DINODEX_DATA]")] = None,
    host: Annotated[str | None, typer.Option(help="Address. Default: 127.0.0.1. [env: DINODEX_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one. Default: 8000. [env: DINODEX_PORT]")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="auto, openvino, torch or torch-compile. [env: DINODEX_RUNTIME]")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16. [env: DINODEX_PRECISION]")] = None,
) -> None:
    """Serve an artifact over REST until SIGTERM; every further setting is a DINODEX_* variable (docs/configuration.md).

    Example: DINODEX_API_KEY=secret dinodex serve --artifact artifacts/first --data data/
    """
    from service.serve import serve as run
    from service.settings import load_settings

    settings = load_settings(
        artifact=artifact or None, data=data, host=host, port=port, runtime=runtime, precision=precision
    )
    run(settings, announce=lambda url: typer.echo(f"serving on {url}", err=True))
