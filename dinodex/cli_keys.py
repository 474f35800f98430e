"""The commands `dinodex keys`: who may ask a service."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

DATA = Annotated[
    Path,
    typer.Option(help="Data directory; a service may be running on it. [env: DINODEX_DATA]", envvar="DINODEX_DATA"),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    keys = typer.Typer(
        help="Make, list and revoke API keys; a running service takes them up at once.", no_args_is_help=True
    )
    keys.command()(add)
    keys.command("list")(show)
    keys.command()(revoke)
    app.add_typer(keys, name="keys")


def add(
    name: Annotated[str, typer.Argument(help="Who or what it is for; stands in the log.")],
    data: DATA,
    scope: Annotated[str, typer.Option(help="read (embed, find, classify) or write (also put and delete).")] = "read",
    expires_days: Annotated[
        float | None, typer.Option(help="Days until it ends. Default: never.", min=0.001, max=36_500)
    ] = None,
) -> None:
    """Make a key and print it, once: only its hash is kept.

    Example: dinodex keys add website --data data/ --scope read --expires-days 90
    """
    from service.http.keys import add_key

    if scope not in ("read", "write"):
        raise typer.BadParameter(f"{scope!r} is not read or write", param_hint="--scope")
    key, secret = add_key(data, name, "write" if scope == "write" else "read", expires_days)
    typer.echo(f"{key.name}: {key.scope}, {_until(key.expires_at)}; the key is shown this once:", err=True)
    typer.echo(secret)


def show(data: DATA, as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False) -> None:
    """List the keys: names, scopes and dates, never a key.

    Example: dinodex keys list --data data/
    """
    from service.http.keys import read_keys

    keys = read_keys(data)
    if as_json:
        listed = [{**asdict(key), "expired": key.expired()} for key in keys]
        typer.echo(json.dumps([{k: v for k, v in each.items() if k != "sha256"} for each in listed]))
        return
    for key in keys:
        typer.echo(f"{key.name}: {key.scope}, made {_day(key.created_at)}, {_until(key.expires_at)}")


def revoke(name: Annotated[str, typer.Argument(help="The key's name.")], data: DATA) -> None:
    """Take a key away; who uses it is refused from now on.

    Example: dinodex keys revoke website --data data/
    """
    from service.http.keys import revoke_key

    revoke_key(data, name)
    typer.echo(f"{name}: revoked", err=True)


def _until(expires_at: float | None) -> str:
    return "without an end" if expires_at is None else f"until {_day(expires_at)}"


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
