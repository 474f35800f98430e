"""The planner of main segments: when to build one, exact or approximate, and how much effort the index then needs.

An index measures itself. Some of the vectors are held out while it is built, and are its queries: as far from all that it holds
as new pictures will be. An exact search says what the nearest are; the effort grows until the index finds 99 % of them. Then it
gets those that were held out, too. Of the kinds, the first that gets there is taken.

What comes later is added to the index, and measured with in the same way, until it has doubled or no effort is enough:
so building a point in costs the same however many there are.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from service.index.approximate import (
    DEEP,
    FAR,
    NEAR,
    ApproximateIndex,
    Kind,
    SearchEffort,
    held_out,
    held_out_of,
    rescored,
)
from service.index.segments import Segment, best, search_exactly
from service.points import Vector

BUILD_POINTS = (
    16_384  # points in the tail, from which on a main segment is worth its files; a start reads a tail in 0.1 s
)
BUILD_SHARE = (
    0.01  # of the main segment: a tail of 10,000 beside a million costs 1 ms a search; to fold it in, 2 GB are written
)
EXTEND_POINTS = (
    4096  # in the tail beside an index that gets them: 0.3 ms a search; adding so few to 100,000 takes seconds
)
MOST_GROWTH = (
    2  # times what an index was built over: codes and lists are made for what was there, and a build costs as much then
)
DEAD_SHARE = 0.2  # of the main segment: beyond it, searches pass over too many tombstones (Qdrant's figure)
EXACT_POINTS = 20_000  # up to here an exact search takes about 1 ms on one core, and nothing need be measured
KINDS: tuple[Kind, ...] = ("hnsw", "ivf")  # the fastest first
TARGET_RECALL = 0.99  # of the ten nearest: 1 wrong in 100 is below what another crop of the picture changes
MARGIN = 0.002  # above the target, beside the error of the measure: for the queries of another day
# The graph's 8 bits a number, with finds scored again, find what 16 do in 0.6 of the memory, and up to a fifth faster. Lists take
# over where vectors are hard to tell apart, so they keep 16.
GRAPH_CODES, LIST_CODES = faiss.ScalarQuantizer.QT_8bit, faiss.ScalarQuantizer.QT_fp16
CODE_TRAINING = 100_000  # vectors that tell the range of each dimension
LINKS = 16  # of a node and direction: 32 answer as fast at the same recall and take a quarter more memory
# At ef 64, 40, 100 and 200 find .964, .984 and .986 of ten neighbours, for 19, 48 and 85 s of building 100,000.
EF_CONSTRUCTION = 100
LISTS_PER_ROOT = 4  # IVF lists, times the root of the number of vectors (FAISS' guideline: 4 to 16)
TRAINING_PER_LIST = 64  # vectors that place a centroid; FAISS warns below 39
EFFORTS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
BLOCK = 65_536  # vectors added or compared at a time: 100 MB of 384-d ones


def needs_build(main: Segment | None, tail: int) -> bool:
    """Say whether the points in the tail, or the tombstones in the main segment, are worth a new main segment."""
    count = 0 if main is None else main.count
    least = EXTEND_POINTS if main is not None and main.approximate is not None else BUILD_POINTS
    return tail > max(least, BUILD_SHARE * count) or (main is not None and _outlived(main))


def may_extend(main: Segment | None, tail: int) -> bool:
    """Say whether the index of a main segment may get the points of the tail, rather than be built anew with them."""
    if main is None or main.approximate is None or _outlived(main):
        return False
    return main.count + tail <= MOST_GROWTH * main.approximate.effort.built


def _outlived(main: Segment) -> bool:
    return main.dead > max(BUILD_POINTS, DEAD_SHARE * main.count)


def wants_approximate(count: int) -> bool:
    """Say whether a main segment of so many points shall have an approximate index."""
    return count > EXACT_POINTS


def build(vectors: Vector) -> tuple[Any, SearchEffort] | None:
    """Return a FAISS index over unit vectors [N, D] and what it needs; None where no kind finds enough."""
    held = held_out(len(vectors))
    for kind in KINDS:
        index = _hnsw(vectors) if kind == "hnsw" else _ivf(vectors)
        for start in range(0, len(vectors), BLOCK):
            index.add(_without(vectors, held, start))
        effort = measure(kind, index, len(vectors), vectors, held)
        if effort is not None:
            index.add(vectors[held])
            return index, effort
    return None


def extend(index: Any, effort: SearchEffort, vectors: Vector) -> SearchEffort | None:  # noqa: ANN401 - FAISS has no types
    """Add to an index over the first of unit vectors [N, D] the others; return what it needs now, None where no effort is enough.

    The last of the new ones are its queries before it gets them.
    """
    known = int(index.ntotal)
    held = np.arange(len(vectors) - held_out_of(len(vectors) - known), len(vectors))
    for start in range(known, held[0], BLOCK):
        index.add(np.ascontiguousarray(vectors[start : min(start + BLOCK, held[0])]))
    found = measure(effort.kind, index, effort.built, vectors, held)
    if found is None:
        return None
    index.add(vectors[held])
    return effort.widened(found)


def _without(vectors: Vector, held: npt.NDArray[np.int64], start: int) -> Vector:
    """Return a block of the vectors but for those that are held out."""
    block = vectors[start : start + BLOCK]
    return np.delete(block, held[(held >= start) & (held < start + BLOCK)] - start, axis=0)


def _hnsw(vectors: Vector) -> Any:  # noqa: ANN401 - FAISS has no types
    index = faiss.IndexHNSWSQ(vectors.shape[1], GRAPH_CODES, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    index.train(_some(vectors, CODE_TRAINING))
    return index


def _ivf(vectors: Vector) -> Any:  # noqa: ANN401 - FAISS has no types
    count, dimension = vectors.shape
    lists = max(1, min(int(LISTS_PER_ROOT * count**0.5), count // TRAINING_PER_LIST))
    centroids = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFScalarQuantizer(centroids, dimension, lists, LIST_CODES, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.train(_some(vectors, lists * TRAINING_PER_LIST))
    index.referenced_objects = [centroids]
    return index


def _some(vectors: Vector, count: int) -> Vector:
    """Return up to `count` of the vectors, chosen at random, the same for equal numbers."""
    if count >= len(vectors):
        return vectors
    return vectors[np.sort(np.random.default_rng(len(vectors)).choice(len(vectors), count, replace=False))]


def measure(
    kind: Kind,
    index: Any,  # noqa: ANN401 - FAISS has no types
    built: int,
    vectors: Vector,
    held: npt.NDArray[np.int64],
) -> SearchEffort | None:
    """Return the effort that an index needs which has all vectors but the held; None where none of EFFORTS is enough for the FAR."""
    queries = vectors[held]
    truth = _nearest(vectors, held, min(DEEP, len(vectors) - len(held)))
    reached = {
        k: _reached(kind, index, built, vectors, queries, truth, k) for k in (NEAR, FAR, DEEP) if k <= truth.shape[1]
    }
    near, far, deep = (reached.get(k) for k in (NEAR, FAR, DEEP))
    if near is None or far is None:
        return None
    far_effort = max(near[0], far[0])
    return SearchEffort(kind, near[0], far_effort, None if deep is None else max(far_effort, deep[0]), near[1], built)


def _reached(
    kind: Kind,
    index: Any,  # noqa: ANN401 - FAISS has no types
    built: int,
    vectors: Vector,
    queries: Vector,
    truth: Vector,
    k: int,
) -> tuple[int, float] | None:
    """Return the least effort that finds enough of the k nearest, and the share that it finds; None where none does."""
    for effort in EFFORTS:
        if kind == "hnsw" and effort < rescored(k):
            continue  # a graph that returns so many keeps at least as many candidates
        approximate = ApproximateIndex(index, len(vectors), SearchEffort(kind, effort, effort, effort, 0.0, built))
        recall, error = _recall(approximate, vectors, queries, truth, k)
        if recall - error >= TARGET_RECALL + MARGIN:
            return effort, recall
    return None


def _recall(
    approximate: ApproximateIndex, vectors: Vector, queries: Vector, truth: Vector, k: int
) -> tuple[float, float]:
    """Return the share of the k nearest that an index finds, and the standard error of that share.

    What is found counts by its cosine: of several equally near vectors any will do.
    """
    scores, _, _ = approximate.search(vectors, queries, k, k, None)
    shares = np.mean(scores >= truth[:, k - 1 : k] - 1e-6, axis=1)
    return float(shares.mean()), float(shares.std() / np.sqrt(len(shares)))


def _nearest(vectors: Vector, held: npt.NDArray[np.int64], k: int) -> Vector:
    """Return the cosines [Q, k] of the k vectors nearest to those held out, of the others, compared one by one."""
    queries = vectors[held]
    scores = np.full((len(held), k), -np.inf, np.float32)
    at = np.full((len(held), k), -1)
    for start in range(0, len(vectors), BLOCK):
        some, where = search_exactly(_without(vectors, held, start), queries, k, None)
        scores, at = best([scores, some], [at, where], k)
    return scores
