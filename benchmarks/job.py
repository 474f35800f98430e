"""The index job beside plain in-process embedding of the same files, and its rerun over unchanged ones.

python benchmarks/job.py [IMAGES]

A rerun embeds nothing, so what it costs a file is measured over files that were put with ready vectors: more of them than anybody would
embed for it on a CPU, so that the constant part, which is the start of the command, does not decide. It is timed as a command, with
the start of Python; the first run is not, which makes the ratio smaller than it is for whoever types both.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import describe, median_seconds, seconds
from PIL import Image

from backbone import Artifact, Preprocess, build, list_images, named
from backbone.artifact_writer import write_artifact
from backbone.durable import read_file
from service.embedding.models import load_model
from service.embedding.runtime_choice import choose_runtime
from service.ingestion.job import index_folder
from service.ingestion.local_sink import open_local_sink
from service.library.library import Library
from service.points import NewPoint, Source, hash_image
from service.settings import Settings, load_settings

IMAGE_SIZE, BATCH = 224, 32
FEW, MANY = 1_000, 10_000  # unchanged files; the difference of two reruns is that of their files
GOAL = 50  # times as fast as the first run


def main(images: int) -> None:
    """Print each figure with its ratio to the peer of the same run."""
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photographs(root / "photos", images)
        torch.manual_seed(0)
        artifact = write_artifact(
            root / "artifact",
            build(named("vit_small_patch16", IMAGE_SIZE)),
            Preprocess.for_image_size(IMAGE_SIZE),
            licence="CC0-1.0",
            lineage="random weights",
            training={},
        )
        settings = load_settings(artifact=artifact.path, data=root / "data")
        start = median_seconds(lambda: load_model(settings, artifact.path).embedder.close())
        in_process = seconds(lambda: embed_one_after_the_other(artifact, root / "photos"))
        first = seconds(lambda: run_job(settings, root / "photos"))
        again = median_seconds(lambda: rerun(settings, root / "photos", images))
        few, many = (rerun_of_ready_vectors(artifact, root / str(files), files) for files in (FEW, MANY))
    print(f"in process, one stage after the other: {images / in_process:,.1f} images/s (ViT-S/16 at {IMAGE_SIZE})")
    print(f"index job, start included: {images / first:,.1f} images/s; ratio {in_process / first:.2f}")
    print(f"rerun over unchanged files, as a command: {again:.2f} s; {first / again:.0f} times faster")
    per_file = (many - few) / (MANY - FEW)
    constant = few - FEW * per_file
    print(f"rerun over {MANY:,} unchanged files: {many:.2f} s: {constant:.2f} s and {1e3 * per_file:.3f} ms a file")
    per_image = (first - start) / images
    print(
        f"reckoned: {(start + MANY * per_image) / many:.0f} times as fast as embedding {MANY:,} photographs"
        f" ({1 / per_image:.1f} images/s); {GOAL} times {from_photographs(start, per_image, constant, per_file)}"
    )


def from_photographs(start: float, per_image: float, constant: float, per_file: float) -> str:
    """Say from how many photographs on a rerun is as much faster as it shall be; all in seconds."""
    gained = per_image - GOAL * per_file
    return "never" if gained <= 0 else f"from {max(0.0, (GOAL * constant - start) / gained):,.0f} photographs on"


def run_job(settings: Settings, photos: Path) -> None:
    """Open everything, index, and close."""
    with open_local_sink(settings, "bench") as sink:
        index_folder(list_images(photos), sink)


def rerun(settings: Settings, photos: Path, files: int) -> None:
    """Run the command over files of which none has changed."""
    into = ["--collection", "bench", "--artifact", str(settings.artifact[0]), "--data", str(settings.data)]
    command = [sys.executable, "-m", "dinodex", "index", str(photos), *into]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if f" {files} unchanged, 0 refused" not in said:
        raise SystemExit(f"the rerun did something: {said}")


def rerun_of_ready_vectors(artifact: Artifact, folder: Path, files: int) -> float:
    """Return the seconds of a rerun over so many small files, whose points have vectors that no network computed."""
    settings = load_settings(artifact=artifact.path, data=folder / "data")
    photos = folder / "photos"
    write_photographs(photos, files, side=8)
    vectors = np.random.default_rng(0).standard_normal((files, artifact.manifest.dimension), np.float32)
    with Library.open(settings.data) as library:
        collection, _ = library.create("bench", artifact.fingerprint, artifact.manifest.dimension)
        points = []
        for image, vector in zip(list_images(photos).images, vectors, strict=True):
            status = image.path.stat()
            source = Source(str(image.path), status.st_size, status.st_mtime_ns)
            points.append(NewPoint(image.id, hash_image(image.path.read_bytes()), vector, image.label, source=source))
        collection.put(points)
    return median_seconds(lambda: rerun(settings, photos, files), runs=5)


def embed_one_after_the_other(artifact: Artifact, photos: Path) -> None:
    """Read, decode and embed batch by batch with the same runtime, and store nothing."""
    runtime = choose_runtime(artifact, threads=torch.get_num_threads()).runtime
    paths = [image.path for image in list_images(photos).images]
    for start in range(0, len(paths), BATCH):
        runtime.run(np.stack([artifact.preprocess(read_file(path)) for path in paths[start : start + BATCH]]), False)


def write_photographs(folder: Path, images: int, side: int = 800) -> None:
    """Write JPEGs of 4:3, so many pixels wide, with content at several scales."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
