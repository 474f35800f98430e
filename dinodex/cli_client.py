"""The client from the shell: `dinodex search`, `cluster`, `duplicates`, `outliers` and `collections`; a table, or JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dinodex.table import print_json, print_table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dinodex import Client

Url = Annotated[str | None, typer.Option(help="Service. Default: DINODEX_URL, or http://127.0.0.1:8000.")]
ApiKey = Annotated[
    str | None, typer.Option(help="API key. Default: DINODEX_API_KEY, or the file DINODEX_API_KEY_FILE.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Collection = Annotated[str, typer.Option(help="Name of the collection.")]
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")]

DEFAULT_URL = "http://127.0.0.1:8000"  # where `dinodex serve` listens by default

collections_app = typer.Typer(help="List, show, create and delete collections.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(search)
    app.command()(cluster)
    app.command()(duplicates)
    app.command()(outliers)
    app.add_typer(collections_app, name="collections")


def connect(url: str | None, api_key: str | None) -> Client:
    """Return a client with the address and key given, or those of the environment.

    Raises:
        FileUnreadable: the file that DINODEX_API_KEY_FILE names cannot be read.
        KeyInvalid: what is there cannot be sent as a key.
    """
    from dinodex import Client

    return Client(url or os.environ.get("DINODEX_URL", DEFAULT_URL), api_key or _key_of_environment())


def _key_of_environment() -> str | None:
    if (key := os.environ.get("DINODEX_API_KEY")) or not (file := os.environ.get("DINODEX_API_KEY_FILE")):
        return key
    from dinodex.errors import FileUnreadable, KeyInvalid
    from service.key_text import read_key_file

    try:
        return read_key_file(Path(file)).decode(errors="surrogateescape")
    except OSError as error:
        raise FileUnreadable(f"cannot read {file}: {error.strerror}; check DINODEX_API_KEY_FILE.") from error
    except ValueError as error:
        raise KeyInvalid(f"the key file {file} {error}; write the key alone there, as one line of UTF-8.") from error


def search(
    image: Image,
    collection: Collection,
    limit: Annotated[int, typer.Option(help="Neighbours wanted, 1 to 1000.")] = 10,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Find the images most like this one.

    Example: dinodex search query.jpg --collection photos --limit 5
    """
    with connect(url, api_key) as client:
        hits = client.collection(collection).query(image=image, limit=limit)
    print_rows(hits, ["id", "score", "label"], as_json)


def cluster(
    collection: Collection,
    k: Annotated[
        str | None, typer.Option(help="Clusters of k-means, 1 to 1000, or auto. Default: auto.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(help="kmeans, or hdbscan, which leaves noise.")] = "kmeans",
    min_size: Annotated[int | None, typer.Option(help="Points of the smallest cluster, for hdbscan.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same clusters.")] = 0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Group a collection's images.

    Example: dinodex cluster --collection photos --k 20
    """
    if method not in ("kmeans", "hdbscan"):
        raise typer.BadParameter("kmeans or hdbscan", param_hint="--method")
    if k not in (None, "auto") and not (k.isascii() and k.isdigit()):
        raise typer.BadParameter("a number, or auto", param_hint="--k")
    wanted: Any = int(k) if k not in (None, "auto") else k
    with connect(url, api_key) as client:
        handle = client.collection(collection)
        clustering = handle.cluster(wanted, method=method, seed=seed, min_size=min_size)  # type: ignore[arg-type]  # checked above
        clusters = handle.clusters(clustering)
    if not as_json:
        typer.echo(f"clustering {clustering}")
    print_rows(clusters, ["cluster", "size", "cohesion", "medoid", "name"], as_json)


def duplicates(
    collection: Collection,
    threshold: Annotated[float, typer.Option(help="Cosine from which two images are near-duplicates, 0 to 1.")] = 0.95,
    across: Annotated[
        tuple[str, str] | None, typer.Option(help="Only pairs of one and the other value, as train test.")
    ] = None,
    key: Annotated[
        str, typer.Option(help="The label, or the field of the payload, that --across speaks of.")
    ] = "label",
    limit: Annotated[int, typer.Option(help="Groups wanted, 1 to 1000.")] = 100,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Find groups of images that are nearly the same.

    Example: dinodex duplicates --collection photos --across train test
    """
    with connect(url, api_key) as client:
        found = client.collection(collection).duplicates(threshold, across=across, key=key, limit=limit)
    if not as_json:
        typer.echo(f"{found.total} groups, {found.duplicates} of {found.points} images")
    print_rows(found.groups, ["size", "score", "ids"], as_json)


def outliers(
    collection: Collection,
    k: Annotated[int, typer.Option(help="Neighbours that say how alone an image is, 1 to 1000.")] = 10,
    limit: Annotated[int, typer.Option(help="Images wanted, 1 to 1000.")] = 20,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Find the images that are like no other.

    Example: dinodex outliers --collection photos
    """
    with connect(url, api_key) as client:
        found = client.collection(collection).outliers(k=k, limit=limit)
    print_rows(found, ["id", "score", "label"], as_json)


@collections_app.command("list")
def list_collections(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the collections.

    Example: dinodex collections list
    """
    with connect(url, api_key) as client:
        print_rows(client.collections(), ["name", "count", "dimension", "keep"], as_json)


@collections_app.command("show")
def show_collection(
    collection: Annotated[str, typer.Argument(metavar="NAME")],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what the service says of one collection.

    Example: dinodex collections show photos
    """
    with connect(url, api_key) as client:
        stats = client.collection(collection).stats()
    print_rows([stats], ["name", "count", "dimension", "keep", "fingerprint"], as_json)


@collections_app.command("create")
def create_collection(
    collection: Annotated[str, typer.Argument(metavar="NAME")],
    keep: Annotated[str | None, typer.Option(help="What is kept of pictures: none, thumbnail or image.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Create a collection for the service's model.

    Example: dinodex collections create photos --keep image
    """
    if keep not in (None, "none", "thumbnail", "image"):
        raise typer.BadParameter("none, thumbnail or image", param_hint="--keep")
    with connect(url, api_key) as client:
        stats = client.collection(collection).create(keep=keep)  # type: ignore[arg-type]  # checked above
    typer.echo(f"{stats.name}: {stats.count} points, keeps {stats.keep}")


@collections_app.command("delete")
def delete_collection(
    collection: Annotated[str, typer.Argument(metavar="NAME")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Delete a collection and all its points.

    Example: dinodex collections delete photos --yes
    """
    if not yes:
        typer.confirm(f"Delete {collection} and all its points?", abort=True)
    with connect(url, api_key) as client:
        client.collection(collection).drop()


def print_rows(rows: Sequence[BaseModel | dict[str, Any]], columns: list[str], as_json: bool) -> None:
    """Print these columns of the rows as a table, or all of the rows as JSON."""
    plain = [row if isinstance(row, dict) else row.model_dump() for row in rows]
    if as_json:
        print_json(plain)
    else:
        print_table(columns, [[row.get(column) for column in columns] for row in plain])
