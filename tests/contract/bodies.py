"""Bodies for requests: images, vectors, matrices and forms, the same at every recording."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

PNG, NPY, JSON = "image/png", "application/x-npy", "application/json"
WIDTH = 8  # numbers of a vector of the artifact


def png(seed: int = 0, width: int = 20, height: int = 16, kind: str = "PNG") -> bytes:
    """Return an image of colour noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def npy(matrix: np.ndarray) -> bytes:
    """Return a matrix as a file."""
    file = io.BytesIO()
    np.save(file, matrix)
    return file.getvalue()


def vector(number: int) -> list[float]:
    """Return a vector near one of three axes; no two pairs are equally far apart."""
    noise = [((number * 37 + j * 101 + number * j * 53) % 211) / 211 - 0.5 for j in range(WIDTH)]
    noise[number % 3] += 2.0
    return noise


def rows(count: int) -> np.ndarray:
    """Return some vectors as a matrix."""
    return np.array([vector(100 + i) for i in range(count)], np.float32)


def form(**parts: tuple[str, str, bytes] | list[tuple[str, str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """Return a multipart body and its header; a part is a file name (none where empty), a type and its bytes."""
    body = b""
    for name, given in parts.items():
        for file_name, kind, content in given if isinstance(given, list) else [given]:
            file = f'; filename="{file_name}"' if file_name else ""
            head = f'--border\r\nContent-Disposition: form-data; name="{name}"{file}\r\nContent-Type: {kind}\r\n\r\n'
            body += head.encode() + content + b"\r\n"
    return body + b"--border--\r\n", {"content_type": "multipart/form-data; boundary=border"}


def b64(image: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(image).decode()
