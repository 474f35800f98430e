"""Golden images: a few encoded pictures whose vectors an artifact remembers, so that any runtime can prove itself before it answers.

They exercise what differs between decoders and resizers: a large JPEG (scaled decoding), EXIF orientation, transparency, grey, 16 bits,
CMYK and WebP. The images are made in code from a fixed seed; their *bytes* are kept in the artifact, so no encoder is trusted.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.errors import ArtifactInvalid, SelfTestFailed
from backbone.pooling import pool
from backbone.preprocess import Preprocess

# pixels [B, 3, H, W] -> (global_token [B, D], patch_tokens [B, N, D])
Run = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]

_ORIENTATION = 0x0112


def golden_images() -> list[bytes]:
    """Return the encoded pictures."""
    large, small = _texture(640, 480, seed=1), _texture(96, 120, seed=2)
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    alpha = _texture(64, 64, seed=3).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((64, 64)))
    grey16 = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    return [
        _encoded(large, "JPEG", quality=90),
        _encoded(large, "JPEG", quality=80, exif=exif),
        _encoded(small, "PNG"),
        _encoded(alpha, "PNG"),
        _encoded(grey16, "PNG"),
        _encoded(small.convert("CMYK"), "JPEG", quality=90),
        _encoded(small.convert("P"), "PNG"),
        _encoded(small, "WEBP", lossless=True),
    ]


def golden_bytes(preprocess: Preprocess, run: Run) -> bytes:
    """Embed the golden images with `run` and return `golden.npz`: `image_N` bytes, `global_token` [n, D], `patch_mean` [n, D]."""
    images = golden_images()
    global_token, patch_mean = _embed(images, preprocess, run)
    arrays = {f"image_{i}": np.frombuffer(data, dtype=np.uint8) for i, data in enumerate(images)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, global_token=global_token, patch_mean=patch_mean, **arrays)
    return buffer.getvalue()


def self_test(golden: bytes, preprocess: Preprocess, run: Run, minimum_cosine: float) -> float:
    """Run the golden images through the whole pipeline and compare with what the artifact remembers.

    Returns:
        The worst cosine.

    Raises:
        SelfTestFailed: it is below `minimum_cosine`, and the message says for which image and token.
        ArtifactInvalid: the file cannot be read.
    """
    try:
        with np.load(io.BytesIO(golden), allow_pickle=False) as stored:
            wanted = {"global token": stored["global_token"], "mean patch token": stored["patch_mean"]}
            images = [stored[f"image_{i}"].tobytes() for i in range(len(stored["global_token"]))]
    except (ValueError, KeyError, OSError) as error:
        raise ArtifactInvalid("golden.npz is damaged; copy or export the artifact again.") from error
    found = dict(zip(wanted, _embed(images, preprocess, run), strict=True))
    worst = 1.0
    for name, expected in wanted.items():
        if found[name].shape != expected.shape:
            raise SelfTestFailed(f"the runtime gives a {name} of shape {found[name].shape}, not {expected.shape}.")
        cosines = np.sum(found[name] * expected, axis=1)
        lowest = int(np.argmin(np.where(np.isfinite(cosines), cosines, -1.0)))
        if not cosines[lowest] >= minimum_cosine:
            raise SelfTestFailed(
                f"golden image {lowest}: the {name} has cosine {cosines[lowest]:.6f} to the artifact's own, and at least "
                f"{minimum_cosine} is needed; this runtime would give other vectors than training did, choose another."
            )
        worst = min(worst, float(cosines[lowest]))
    return worst


def _embed(images: list[bytes], preprocess: Preprocess, run: Run) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    pixels = np.stack([preprocess(data) for data in images])
    global_token, patch_tokens = run(pixels)
    return pool(global_token, patch_tokens, "cls"), pool(global_token, patch_tokens, "mean")


def _texture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colour noise: like a photograph, it has content at every scale and no hard grid."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (3, 9, 27):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 3
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()
