"""The command line. Each command imports what it needs when it runs, so that `dinodex --help` is quick and a client needs no torch."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from backbone.interpreter import safe_children
from dinodex import (
    cli_backup,
    cli_client,
    cli_demo,
    cli_eval,
    cli_index,
    cli_keys,
    cli_service,
    cli_training,
    cli_votes,
)
from dinodex.any_text import show_any_text
from dinodex.ending import Ending

DEBUG = "--debug"  # may stand anywhere in the line, since it is thought of when a command has failed


app = typer.Typer(
    name="dinodex",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (cli_training, cli_eval, cli_service, cli_index, cli_client, cli_votes, cli_keys, cli_backup, cli_demo):
    part.add_to(app)


@app.callback()
def before_any_command(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option(DEBUG, envvar="DINODEX_DEBUG", help="Show the trace of an error, not its sentence alone.")
    ] = False,
) -> None:
    """A folder of images in, your own DINO backbone and a search service out."""
    context.with_resource(safe_children())


def main() -> None:
    """Run the command line; it ends with an exit code of `dinodex.exits`, and where it fails with one sentence on standard error."""
    options, rest = _split(sys.argv[1:])
    show_any_text(sys.stdout)
    show_any_text(sys.stderr)
    ending = Ending(debug=DEBUG in options or _is_set("DINODEX_DEBUG"))
    sys.exit(ending.run(lambda: app(args=[*(each for each in options if each != DEBUG), *rest])))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return what may be options, and what is none behind `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end:]


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off")
