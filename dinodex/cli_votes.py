"""Votes from the shell: `dinodex classify`, `dinodex collections evaluate` and `label-issues`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dinodex.cli_client import ApiKey, AsJson, Collection, Url, collections_app, connect, print_rows

Temperature = Annotated[float, typer.Option(help="Of the softmax weighting; the less, the more the nearest count.")]
Weighting = Annotated[
    Literal["softmax", "distance", "uniform"], typer.Option(help="How much a neighbour's vote counts.")
]
Balance = Annotated[
    Literal["none", "inverse"], typer.Option(help="inverse: divide each vote by the size of its class.")
]
Exact = Annotated[bool, typer.Option("--exact", help="Compare with every vector instead of asking the index.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(classify)
    collections_app.command("evaluate")(evaluate)
    collections_app.command("label-issues")(label_issues)


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    collection: Collection,
    k: Annotated[int, typer.Option(help="Neighbours that vote, 1 to 1000.")] = 20,
    temperature: Temperature = 0.07,
    weighting: Weighting = "softmax",
    balance: Balance = "none",
    exact: Exact = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Classify images by the labels of their nearest neighbours.

    Example: dinodex classify query.jpg --collection photos
    """
    rows = []
    with connect(url, api_key) as client:
        for image in images:
            answer = client.collection(collection).classify(
                image=image, k=k, temperature=temperature, weighting=weighting, balance=balance, exact=exact
            )
            rows.append({"image": str(image), **answer.model_dump(include={"label", "probability", "classes"})})
    print_rows(rows, ["image", "label", "probability"], as_json)


def evaluate(
    collection: Annotated[str, typer.Argument(metavar="NAME")],
    k: Annotated[list[int] | None, typer.Option(help="Neighbours that vote; repeat it to compare several.")] = None,
    temperature: Temperature = 0.07,
    weighting: Weighting = "softmax",
    balance: Balance = "none",
    exact: Exact = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Classify every labelled point by the others and say how often that is right; --json has all figures.

    Example: dinodex collections evaluate photos --k 5 --k 20
    """
    with connect(url, api_key) as client:
        found = client.collection(collection).evaluate(
            k or (1, 5, 10, 20, 50, 100, 200),
            temperature=temperature,
            weighting=weighting,
            balance=balance,
            exact=exact,
        )
    if as_json:
        print_rows([found], [], as_json)
        return
    print_rows(
        [
            {"k": each, "accuracy": found.accuracy[each], "balanced accuracy": found.balanced_accuracy[each]}
            for each in found.accuracy
        ],
        ["k", "accuracy", "balanced accuracy"],
        as_json,
    )
    typer.echo(f"best k {found.best_k}, calibration error {found.calibration.error:.4f}, {found.points:,} points")


def label_issues(
    collection: Annotated[str, typer.Argument(metavar="NAME")],
    k: Annotated[int, typer.Option(help="Neighbours that vote, 1 to 1000.")] = 20,
    limit: Annotated[int, typer.Option(help="Issues wanted, 1 to 1000.")] = 20,
    temperature: Temperature = 0.07,
    weighting: Weighting = "softmax",
    balance: Balance = "none",
    exact: Exact = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List points whose neighbours vote for another label, the most suspicious first.

    Example: dinodex collections label-issues photos --limit 50
    """
    with connect(url, api_key) as client:
        found = client.collection(collection).label_issues(
            k, limit=limit, temperature=temperature, weighting=weighting, balance=balance, exact=exact
        )
    print_rows(found.result, ["id", "label", "suggested", "probability", "suggested_probability"], as_json)
    if not as_json:
        typer.echo(f"{found.suspected:,} of {found.checked:,} labelled points are suspected")
