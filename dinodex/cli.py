"""The command line. Each command imports what it needs when it runs, so that `dinodex --help` is quick and a client needs no torch."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import typer

from backbone.interpreter import safe_children
from dinodex import cli_backup, cli_client, cli_demo, cli_eval, cli_keys, cli_service, cli_training, cli_votes
from dinodex.exits import CONFIG, EXPECTED, exit_code

# Modules that only a part of the commands needs: the extra that brings them.
_EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "lightning": "train",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "faiss": "serve",
    "structlog": "serve",
    "pydantic_settings": "serve",
    "sklearn": "train",
}


def _before_any_command(context: typer.Context) -> None:
    """Prepare the process for the command that follows."""
    context.with_resource(safe_children())


app = typer.Typer(
    name="dinodex",
    help="A folder of images in, your own DINO backbone and a search service out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    callback=_before_any_command,
)
for part in (cli_training, cli_eval, cli_service, cli_client, cli_votes, cli_keys, cli_backup, cli_demo):
    part.add_to(app)


def main() -> None:
    """Run the command line; an expected error is one sentence on stderr and an exit code of `dinodex.exits`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a letter that the terminal does not have ends no command
    try:
        app()
    except ModuleNotFoundError as error:
        if (extra := _EXTRAS.get((error.name or "").partition(".")[0])) is None:
            raise
        print(f"dinodex: {error.name} is needed for this; run: pip install 'dinodex[{extra}]'.", file=sys.stderr)  # noqa: T201
        sys.exit(CONFIG)
    except EXPECTED as error:
        print(f"dinodex: {error}", file=sys.stderr)  # noqa: T201 - this is the terminal
        sys.exit(exit_code(error))
