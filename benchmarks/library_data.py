"""The points of the library's benchmark: clustered synthetic vectors, and Fashion-MNIST as embeddings of real pictures.

Everything is drawn from fixed seeds. Large arrays lie in a folder as .npy files, made once and memory-mapped from then on.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

DIMENSION, QUERIES, SHARES = 384, 1_000, 1_000
DIRECTIONS = (
    32  # in which the clusters lie: the intrinsic dimension that is reported of networks' embeddings is 10 to 50
)
POINTS_PER_CLUSTER = 250
SPREAD, NOISE = 1.0, 1.0  # clusters overlap: of a query's ten nearest, about half are of its own cluster
BLOCK = 50_000
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Unit vectors [N, D] and unseen queries [Q, D].

    Two numbers from 0 to 999 stand in each point's payload, so that "less than n" allows n/1000 of the points: `random` says
    nothing of the vector; `cluster` is equal within a cluster, so a filter on it allows whole regions and forbids others.
    """

    name: str
    vectors: Vectors
    queries: Vectors
    random: Numbers
    cluster: Numbers

    def payload(self, at: int) -> dict[str, int]:
        """Return the payload of a point."""
        return {"random": int(self.random[at]), "cluster": int(self.cluster[at])}


def clustered(points: int, folder: Path) -> Data:
    """Draw overlapping clusters of uneven size: a Gaussian in a few directions of falling variance, mixed into all of them."""
    rng = np.random.default_rng(0)
    clusters = max(1_000, points // POINTS_PER_CLUSTER)
    mixing = rng.normal(size=(DIRECTIONS, DIMENSION)) * np.linspace(1.5, 0.3, DIRECTIONS)[:, None]
    centres, sizes = rng.normal(size=(clusters, DIRECTIONS)), rng.dirichlet(np.ones(clusters))

    def draw(count: int) -> tuple[Vectors, Numbers]:
        of = rng.choice(clusters, count, p=sizes)
        latent = centres[of] + SPREAD * rng.normal(size=(count, DIRECTIONS))
        return unit(latent @ mixing + NOISE * rng.normal(size=(count, DIMENSION))), of

    queries, _ = draw(QUERIES)
    path = folder / f"clustered-{points}.npy"
    of_path = folder / f"clustered-{points}-of.npy"
    if not of_path.exists():  # written last
        vectors = np.lib.format.open_memmap(path, "w+", np.float32, (points, DIMENSION))
        of = np.empty(points, np.int64)
        for start in range(0, points, BLOCK):
            block = slice(start, min(start + BLOCK, points))
            vectors[block], of[block] = draw(block.stop - start)
        np.save(of_path, of)
    of = np.load(of_path)
    order = np.cumsum(np.bincount(of, minlength=clusters)) * SHARES // (points + 1)
    return Data("clustered", np.load(path, mmap_mode="r"), queries, rng.integers(0, SHARES, points), order[of])


def fashion_mnist() -> Data | None:
    """Return 60,000 pictures and 1,000 unseen ones as what a linear embedding makes of them; None where they are not there.

    The embedding is the 384 principal components of the pixels, centred: real pictures' neighbourhoods without a trained
    network at hand. The class stands for the cluster.
    """
    if not FASHION_MNIST.is_dir():
        return None
    pictures = read_idx(FASHION_MNIST / "train-images-idx3-ubyte.gz").reshape(-1, 784) / np.float32(255)
    unseen = read_idx(FASHION_MNIST / "t10k-images-idx3-ubyte.gz").reshape(-1, 784)[:QUERIES] / np.float32(255)
    classes = read_idx(FASHION_MNIST / "train-labels-idx1-ubyte.gz").astype(np.int64)
    mean = pictures.mean(axis=0)
    components = np.linalg.eigh(np.cov(pictures, rowvar=False))[1][:, : -DIMENSION - 1 : -1].astype(np.float32)
    rng = np.random.default_rng(0)
    return Data(
        "Fashion-MNIST",
        unit((pictures - mean) @ components),
        unit((unseen - mean) @ components),
        rng.integers(0, SHARES, len(pictures)),
        classes * SHARES // 10,
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read MNIST's format: two zero bytes, type, number of axes, a big-endian length for each, then the values."""
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape.tolist())


def unit(rows: NDArray[np.float64] | Vectors) -> Vectors:
    """Return rows scaled to length 1."""
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def kth_cosines(vectors: Vectors, queries: Vectors, k: int, allowed: NDArray[np.bool_] | None = None) -> Vectors:
    """Return the cosine of each query's k-th nearest among the allowed, by comparing with every one of them."""
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    for start in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[start : start + BLOCK])
        if allowed is not None:
            block = block[allowed[start : start + BLOCK]]
        if len(block):
            heap.add_result(*faiss.knn(queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT))
    heap.finalize()
    return heap.D[:, -1]


def recall(vectors: Vectors, queries: Vectors, found: Numbers, kth: Vectors) -> float:
    """Return the share of the nearest that was found [Q, k]; of several equally near ones any will do."""
    cosines = np.einsum("qd,qkd->qk", queries, vectors[np.maximum(found, 0)])
    return float(np.mean((found >= 0) & (cosines >= kth[:, None] - 1e-6)))
