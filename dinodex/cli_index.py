"""The command `dinodex index`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinodex.cli_options import range_option
from dinodex.exits import BAD_DATA, TERMINATED
from dinodex.table import shown

if TYPE_CHECKING:
    from backbone.listing import ImageList
    from backbone.value_range import ValueRange
    from service.ingestion.job import IndexResult, OnChunk
    from service.ingestion.sinks import Sink


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(index)


def index(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder of images, a folder of class folders, or a .txt list.")
    ],
    collection: Annotated[str, typer.Option(help="Name of the collection; made where it is missing.")],
    artifact: Annotated[Path | None, typer.Option(help="Directory of the artifact (with --data).")] = None,
    data: Annotated[Path | None, typer.Option(help="Data directory, while no service holds it.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of a running service, instead of --artifact and --data.")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="Key for --url. Default: DINODEX_API_KEY, or the file DINODEX_API_KEY_FILE.")
    ] = None,
    labels: Annotated[str, typer.Option(help="folders, none, or a CSV file of path,label.")] = "folders",
    formats: Annotated[
        str | None,
        typer.Option(
            help="Formats, such as jpeg,png,heic. Default: all that are read here with --data, jpeg,png,webp with --url."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Leave out paths below SOURCE, as .gitignore has them: thumbs/, *-draft.*, /2019/**/raw; may be repeated.",
        ),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH",
            help="Black and white of grey images of 16 and 32 bits, such as 0:4095 (with --data; a service has a setting).",
        ),
    ] = None,
    id_prefix: Annotated[
        str, typer.Option(help="What ids begin with, such as roll2/, where folders hold files of the same names.")
    ] = "",
    replace_sources: Annotated[
        bool, typer.Option("--replace-sources", help="Replace points that came from another folder, or over REST, too.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete points whose file was looked for and is gone (with --data).")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Prune also more than a tenth of the points, or all of a folder.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="File that gets a JSON line for each refused image.")] = None,
) -> None:
    """Embed a folder into a collection; a rerun embeds only what is new or changed.

    Example: dinodex index photos/ --collection photos --artifact artifacts/first --data data/
    """
    remote = url is not None
    if remote == (artifact is not None and data is not None):
        raise typer.BadParameter("give --artifact and --data, or --url of a running service")
    if remote:
        _refuse_local_options(prune=prune, value_range=value_range)
    if yes and not prune:
        raise typer.BadParameter("it confirms what --prune would delete; give both", param_hint="--yes")
    if id_prefix:
        _check_prefix(id_prefix)
    if report is not None:
        from backbone.output import held_open

        context.with_resource(held_open(report))  # before the work, not in the middle of it
    from service.ingestion.job import index_folder, stopping_on_sigterm

    given_range = None if value_range is None else range_option(value_range)
    taken = _formats(formats, remote=remote)
    listing = _listing(source, taken, labels, exclude or (), given_range, remote=remote)
    with stopping_on_sigterm() as stop:
        with (
            _open_sink(collection, artifact, data, url, api_key, taken, given_range) as sink,
            _progress(len(listing)) as on_chunk,
        ):
            result = index_folder(
                listing,
                sink,
                report=report,
                prune=prune,
                prune_many=yes,
                id_prefix=id_prefix,
                replace_sources=replace_sources,
                on_chunk=on_chunk,
                stop=stop,
            )
        _summarise(result, report)
    if remote and result.replaced and not replace_sources:
        _warn_of_replaced(result.replaced)
    _end(result, len(listing))


def _refuse_local_options(*, prune: bool, value_range: str | None) -> None:
    if prune:
        raise typer.BadParameter("a service does not tell where its images came from; use --data", param_hint="--prune")
    if value_range is not None:
        raise typer.BadParameter("a service has its own, DINODEX_VALUE_RANGE", param_hint="--value-range")


def _listing(
    source: Path,
    formats: tuple[str, ...],
    labels: str,
    exclude: Sequence[str],
    value_range: ValueRange | None,
    *,
    remote: bool,
) -> ImageList:
    """List the images, and say what a person has to know about them."""
    from backbone.dim_images import dim_note
    from backbone.listing import list_images

    listing = list_images(source, formats=formats, labels=labels, exclude=exclude)
    for note in listing.notes:
        typer.echo(note, err=True)
    if value_range is None and (dim := dim_note(listing.images)) is not None:
        typer.echo(f"{dim}: {'with the service, DINODEX_VALUE_RANGE' if remote else '--value-range'} 0:4095", err=True)
    return listing


@contextmanager
def _open_sink(
    collection: str,
    artifact: Path | None,
    data: Path | None,
    url: str | None,
    api_key: str | None,
    formats: tuple[str, ...],
    value_range: ValueRange | None,
) -> Iterator[Sink]:
    if url is not None:
        from dinodex.cli_client import connect
        from dinodex.remote_sink import RemoteSink

        with connect(url, api_key) as client:
            yield RemoteSink(client, collection)
    else:
        from service.ingestion.local_sink import open_local_sink
        from service.settings import load_settings

        with open_local_sink(
            load_settings(artifact=artifact, data=data, value_range=value_range), collection, formats=formats
        ) as sink:
            yield sink


def _check_prefix(prefix: str) -> None:
    from service.errors import InvalidId
    from service.points import check_id

    try:
        check_id(f"{prefix}_")  # with the shortest name
    except InvalidId as error:
        raise typer.BadParameter(f"no id can begin so: {error}", param_hint="--id-prefix") from error


def _formats(given: str | None, *, remote: bool) -> tuple[str, ...]:
    from backbone.formats import INSTALLED_FORMATS, SERVICE_FORMATS, formats_named

    if given is None:
        return SERVICE_FORMATS if remote else INSTALLED_FORMATS
    try:
        return formats_named(given, read_here=not remote)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--formats") from error


@contextmanager
def _progress(total: int) -> Iterator[OnChunk]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("indexing", total=total, rate="")
        yield lambda result: bar.update(task, completed=result.done, rate=f"{result.images_per_s:.0f} images/s")


def _warn_of_replaced(points: int) -> None:
    typer.echo(
        f"points with other content that were replaced: {points}; a service does not tell where they came from. Where that was"
        " another folder, --id-prefix gives each ids of its own",
        err=True,
    )


def _end(result: IndexResult, files: int) -> None:
    """Raise what the job ends with, where not everything went well."""
    if result.not_pruned is not None:
        raise result.not_pruned
    if result.interrupted:
        raise typer.Exit(TERMINATED)
    if result.refused == files:
        raise typer.Exit(BAD_DATA)


def _summarise(result: IndexResult, report: Path | None) -> None:
    _say_refusals(result, report)
    _say_other_ids(result)
    pruned = f", {result.pruned} pruned" if result.pruned else ""
    typer.echo(
        f"{result.created} created, {result.replaced} replaced, {result.unchanged} unchanged, {result.refused} refused{pruned}"
        f" in {result.seconds:.1f} s ({result.images_per_s:.0f} images/s)"
    )


def _say_refusals(result: IndexResult, report: Path | None) -> None:
    for refusal in result.first_refusals:
        typer.echo(f"refused {shown(refusal.id)}: {refusal.detail}", err=True)
    if more := result.refused - len(result.first_refusals):
        where = f"all are in {report}" if report is not None else "--report FILE keeps them all"
        typer.echo(f"... and {more} more; {where}", err=True)


def _say_other_ids(result: IndexResult) -> None:
    if result.listed_twice:
        typer.echo(
            f"files with points of other ids already: {result.listed_twice}; from a folder above or below, or with another prefix",
            err=True,
        )
    if result.other_source:
        typer.echo(
            f"refused for points of another source: {result.other_source}; --id-prefix NAME/ keeps both, --replace-sources"
            " replaces those",
            err=True,
        )
