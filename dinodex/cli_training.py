"""The commands `dinodex train` and `dinodex export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dinodex.exits import TERMINATED


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(train)
    app.command()(export)


def train(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A folder of images, a folder of class folders, or a .txt list.")
    ],
    out: Annotated[Path, typer.Option(help="New directory for checkpoints, logs and the artifact.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Training keys.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="dino or dinov2. Default: dino, which learns from small sets.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="vit_{tiny,small,base,large}_patchP, resnet{18,34,50,101}, convnext_{tiny,small,base,large}."
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="ARTIFACT", help="Start from this artifact's network and weights.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of training keys; key=value goes before it.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out paths below DATA, as .gitignore has them; may be repeated."),
    ] = None,
    devices: Annotated[str | None, typer.Option(help="GPUs, or CPU processes; auto takes what is there.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning's strategy: auto or ddp.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, 32, bf16 or 16.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly; where there is none, begin it.")
    ] = False,
    accept_data: Annotated[
        bool, typer.Option("--accept-data", help="With --resume: go on although the images have changed.")
    ] = False,
    accept_processes: Annotated[
        bool, typer.Option("--accept-processes", help="With --resume: go on with another number of processes.")
    ] = False,
) -> None:
    """Train a DINO or DINOv2 backbone on your images, and write it as an artifact.

    Example: dinodex train photos/ --out runs/first --backbone vit_tiny_patch16 image_size=64 max_epochs=5
    """
    from training.processes.launcher import refuse_malformed

    refuse_malformed(os.environ)
    from training.config import TrainingConfig
    from training.resume import Resume
    from training.run import train as run

    options = {
        "recipe": recipe,
        "backbone": backbone,
        "init": init,
        "devices": devices,
        "nodes": nodes,
        "strategy": strategy,
        "precision": precision,
    }
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    values = TrainingConfig.given_values(config, [*given, *(overrides or [])])
    if exclude:  # not as text: a pattern may hold a comma
        values["exclude"] = (*exclude, *values.get("exclude", ()))
    wish = Resume(values, accept_data, accept_processes) if resume else None
    result = run(data, out, TrainingConfig(**values), resume=wish)
    if not result.by_first:
        return
    if result.interrupted:
        typer.echo(
            f"stopped at step {result.steps}; its checkpoint is in {result.run / 'checkpoints'}, go on with --resume"
        )
        raise typer.Exit(TERMINATED)
    knn = "" if result.knn is None else f", kNN {result.knn:.1%}"
    recall = "" if result.two_view_recall is None else f", two-view recall {result.two_view_recall:.1%}"
    speed = f" at {result.images_per_s:.1f} images/s" if result.images_per_s else ""
    typer.echo(f"{result.steps} steps{speed}{knn}{recall}; the artifact is {result.artifact}")


def export(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A run, a checkpoint, an artifact, or a DINOv2 .pth of the hub.")
    ],
    out: Annotated[Path, typer.Option(help="New directory for the artifact.")],
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Leave model.onnx out.")] = False,
) -> None:
    """Turn a run, a checkpoint or published weights into an artifact that can be served.

    Example: dinodex export runs/first --out artifacts/first
    """
    from training.export import export as write

    artifact = write(source, out, onnx=not no_onnx)
    typer.echo(f"{artifact.path}: {artifact.architecture}, dimension {artifact.manifest.dimension}")
    typer.echo(f"fingerprint {artifact.fingerprint}")
