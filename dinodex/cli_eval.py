"""The command `dinodex eval`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dinodex.any_text import ESCAPED
from dinodex.cli_options import range_option
from dinodex.table import print_json, print_table

if TYPE_CHECKING:
    from training.evaluation import Evaluation

STDOUT = "-"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("eval")(evaluate)


def evaluate(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Directory of an artifact.")],
    train: Annotated[Path, typer.Option(help="Folder of class folders: the images that are known.")],
    val: Annotated[Path, typer.Option(help="Folder of class folders: the images that are asked about.")],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Leave out paths below both folders, as .gitignore has them; may be repeated."
        ),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Black and white of grey images of 16 and 32 bits, such as 0:4095."),
    ] = None,
    json_to: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE|-", help="Write JSON to a file; - prints it instead of the table."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Where vectors are kept for the next time. Default: dinodex/features in XDG_CACHE_HOME or ~/.cache."
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep vectors.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same scores.")] = 0,
) -> None:
    """Score an artifact on labelled images: kNN, linear probe, retrieval and clusters.

    Example: dinodex eval artifacts/first --train photos/ --val more-photos/
    """
    if no_cache and cache is not None:
        raise typer.BadParameter("--cache and --no-cache contradict each other", param_hint="--no-cache")
    from backbone.output import Output
    from training.evaluation import evaluate as run
    from training.evaluation.feature_cache import default_directory

    given = None if value_range is None else range_option(value_range)
    directory = None if no_cache else cache or default_directory()
    path = None if json_to is None or json_to == STDOUT else Path(json_to)
    with nullcontext() if path is None else Output(path) as output:  # before the work, not after it
        result = run(
            artifact,
            train,
            val,
            directory,
            seed,
            exclude=exclude or (),
            value_range=given,
            say=lambda line: typer.echo(line, err=True),
        )
        if output is not None:
            text = json.dumps(asdict(result), indent=2, ensure_ascii=False)
            output.write(f"{text}\n".encode(errors=ESCAPED))
    if json_to == STDOUT:
        print_json(asdict(result))
        return
    _print(result)


def _print(result: Evaluation) -> None:
    counts, timing = result.counts, result.timing
    print_table(("score", "value", "what it says"), _rows(result))
    typer.echo(
        f"{counts.train:,} training and {counts.validation:,} validation images in {counts.classes:,} classes;"
        f" vectors in {timing.features_s:.1f} s, scores in {timing.scores_s:.1f} s ({timing.images_per_s:,.0f} images/s)"
    )
    for note in result.notes:
        typer.echo(note)


def _rows(result: Evaluation) -> list[tuple[str, str, str]]:
    rows = [
        (f"kNN, k {k}", f"{accuracy:.1%}", f"validation images that their {k} nearest training images classify rightly")
        for k, accuracy in result.knn.items()
    ]
    linear, found, groups = result.linear, result.retrieval, result.clustering
    rows.append(
        (
            "linear probe",
            f"{linear.accuracy:.1%}",
            f"the same for a linear classifier (weight decay {linear.weight_decay:g})",
        )
    )
    rows += [
        (f"recall@{k}", f"{share:.1%}", f"validation images with one of their class among the {k} most similar")
        for k, share in found.recall.items()
    ]
    rows.append(
        (
            "mAP",
            f"{found.mean_average_precision:.3f}",
            "retrieval over the full ranking; 1: each image's class comes first",
        )
    )
    rows.append(("NMI", f"{groups.nmi:.3f}", "k-means clusters against classes; 0 is chance, 1 the same groups"))
    rows.append(("ARI", f"{groups.ari:.3f}", "the same, counted in pairs of images"))
    rows.append(("purity", f"{groups.purity:.1%}", "validation images of the most frequent class of their cluster"))
    return rows
