"""The index job beside plain in-process embedding of the same files, and its rerun over unchanged ones.

python benchmarks/job.py [IMAGES]
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import describe, seconds
from PIL import Image

from backbone import Artifact, Preprocess, build, list_images, named
from backbone.artifact_writer import write_artifact
from backbone.durable import read_file
from service.index_job import index_folder
from service.local_sink import open_local_sink
from service.models import load_model
from service.runtime import choose_runtime
from service.settings import Settings, load_settings

IMAGE_SIZE, BATCH = 224, 32


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
        load_model(settings, artifact.path).embedder.close()  # compiled once before anything is timed
        in_process = seconds(lambda: embed_one_after_the_other(artifact, root / "photos"))
        first = seconds(lambda: run_job(settings, root / "photos"))
        again = seconds(lambda: run_job(settings, root / "photos"))
        print(f"in process, one stage after the other: {images / in_process:,.1f} images/s (ViT-S/16 at {IMAGE_SIZE})")
        print(f"index job, start included: {images / first:,.1f} images/s; ratio {in_process / first:.2f}")
        print(f"rerun over unchanged files, start included: {again:.2f} s; {first / again:.0f} times faster")


def run_job(settings: Settings, photos: Path) -> None:
    """Open everything, index, and close."""
    with open_local_sink(settings, "bench") as sink:
        index_folder(list_images(photos), sink)


def embed_one_after_the_other(artifact: Artifact, photos: Path) -> None:
    """Read, decode and embed batch by batch with the same runtime, and store nothing."""
    runtime = choose_runtime(artifact, threads=torch.get_num_threads()).runtime
    paths = [image.path for image in list_images(photos).images]
    for start in range(0, len(paths), BATCH):
        runtime.run(np.stack([artifact.preprocess(read_file(path)) for path in paths[start : start + BATCH]]))


def write_photographs(folder: Path, images: int) -> None:
    """Write JPEGs of 800 x 600 with content at several scales."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((800, 600), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        (folder / f"{number:05d}.jpg").write_bytes(buffer.getvalue())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
