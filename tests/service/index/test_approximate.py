"""Approximate indexes over clustered vectors, against brute force: alone, with tombstones, under filters of every kind."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from service.concurrency.child_process import ChildFailed
from service.errors import ServiceError
from service.index import build_worker, planner
from service.index.approximate import ApproximateIndex, Kind, SearchEffort, held_out
from service.index.hashed_files import describe
from service.index.positions import PositionSet, packed
from service.index.row_set import RowSet
from service.index.segments import Segment
from service.index.vector_index import VectorIndex, View
from service.points import Vector, unit_rows

N, D, CLUSTERS = 12_000, 32, 60


@pytest.fixture(scope="module")
def clustered() -> tuple[Vector, npt.NDArray[np.int64], Vector]:
    """Vectors in clusters that run into each other, the cluster of each, and queries from the same clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, D))
    of = rng.integers(0, CLUSTERS, N)
    vectors = unit_rows(centres[of] + 0.6 * rng.normal(size=(N, D)), D)
    queries = unit_rows(centres[rng.integers(0, CLUSTERS, 300)] + 0.6 * rng.normal(size=(300, D)), D)
    return vectors, of, queries


@pytest.fixture(scope="module")
def view(clustered: tuple[Vector, npt.NDArray[np.int64], Vector], tmp_path_factory: pytest.TempPathFactory) -> View:
    vectors, _, _ = clustered
    folder = tmp_path_factory.mktemp("index")
    vectors.tofile(folder / build_worker.VECTORS)
    effort = build_worker.build(folder, D, 1, lambda: None).effort
    assert effort is not None
    approximate = ApproximateIndex.read(folder / build_worker.INDEX, effort)
    index = VectorIndex(D)
    index.start_from(Segment(vectors, np.arange(1, N + 1), N, approximate=approximate, fixed=True), None)
    return index.view()


def recall(view: View, queries: Vector, k: int, allowed: RowSet | None = None) -> float:
    truth, _ = view.search(queries, k, allowed, exact=True)
    scores, rows = view.search(queries, k, allowed)
    assert rows.shape == truth.shape
    for found in rows:
        assert len(set(found.tolist())) == len(found)
    if allowed is not None:
        assert np.isin(rows, allowed.rows).all()
    return float(np.mean(scores >= truth[:, -1:] - 1e-6))


@pytest.mark.parametrize("k", [1, 10, 50, 100])
def test_an_index_finds_99_of_100_nearest_with_their_exact_scores(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector], k: int
) -> None:
    vectors, _, queries = clustered
    assert recall(view, queries, k) >= 0.99
    scores, rows = view.search(queries, k)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows - 1]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.01, 0.001])
def test_a_filter_of_any_selectivity_keeps_the_recall(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector], share: float
) -> None:
    rows = np.flatnonzero(np.random.default_rng(1).random(N) < share) + 1
    assert recall(view, clustered[2], 10, RowSet(rows)) >= 0.99


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_filter_that_allows_only_what_lies_far_from_the_query_keeps_the_recall(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector], share: float
) -> None:
    _, of, queries = clustered
    assert recall(view, queries, 10, RowSet(np.flatnonzero(of < share * CLUSTERS) + 1)) >= 0.99


def test_tombstones_anywhere_keep_the_recall_and_are_never_found(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector]
) -> None:
    _, of, queries = clustered
    gone = (
        np.flatnonzero((of < 6) | (np.random.default_rng(2).random(N) < 0.05)) + 1
    )  # whole clusters, and here and there
    assert view.main is not None
    index = VectorIndex(D)
    index.start_from(view.main, None)
    index.remove(gone)
    assert recall(index.view(), queries, 10) >= 0.99
    _, rows = index.view().search(queries, 100)
    assert not np.isin(rows, gone).any()
    assert recall(index.view(), queries, 10, RowSet(np.setdiff1d(np.arange(1, N + 1, 2), gone))) >= 0.99


def test_an_index_that_sees_too_few_of_what_is_allowed_says_so(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector]
) -> None:
    vectors, of, _ = clustered
    assert view.main is not None
    index = view.main.approximate
    assert index is not None
    far = PositionSet(N, bitmap=packed(of == 0))
    _, _, sure = index.search(vectors, vectors[of == 1][:20], 10, 20, far)
    assert not sure.any()
    _, _, sure = index.search(vectors, vectors[of == 0][:20], 10, 60, far)
    assert sure.all()


def test_few_selected_and_many_wanted_are_compared_one_by_one() -> None:
    class Million:
        nlist = 4000

    graph = ApproximateIndex(
        Million, 1_000_000, SearchEffort("hnsw", near=50, far=200, deep=1500, recall=0.99, built=10**6)
    )
    assert graph.candidates(10, 1_000_000) == 10
    assert graph.candidates(10, 500_000) == 40
    assert graph.candidates(10, 1_000) is None
    assert graph.candidates(1000, 100_000) is None
    assert graph.candidates(1000, 1_000_000) == 1000
    lists = ApproximateIndex(
        Million, 1_000_000, SearchEffort("ivf", near=20, far=40, deep=None, recall=0.99, built=10**6)
    )
    assert lists.candidates(10, 1_000_000) == 10
    assert lists.candidates(10, 5_000) is None
    assert lists.candidates(100, 1_000_000) == 100
    assert lists.candidates(101, 1_000_000) is None
    assert graph.candidates(1001, 1_000_000) is None


@pytest.fixture(scope="module")
def apart() -> Vector:
    """Clusters that no link of a graph joins: each point has more neighbours in its own than a node has links."""
    rng = np.random.default_rng(0)
    return unit_rows(np.repeat(rng.normal(size=(50, 16)), 200, axis=0) + 0.02 * rng.normal(size=(10_000, 16)), 16)


def test_where_a_graph_falls_apart_lists_take_over(apart: Vector) -> None:
    found = planner.build(apart)
    assert found is not None
    index, effort = found
    assert effort.kind == "ivf", "the graph was tried first"
    segment = Segment(
        apart, np.arange(1, 10_001), 10_000, approximate=ApproximateIndex(index, len(apart), effort), fixed=True
    )
    vectors = VectorIndex(16)
    vectors.start_from(segment, None)
    queries = unit_rows(apart[::50] + 0.02 * np.random.default_rng(1).normal(size=(200, 16)), 16)
    assert recall(vectors.view(), queries, 10) >= 0.99
    for share in (0.5, 0.1, 0.02):
        rows = np.flatnonzero(np.random.default_rng(2).random(10_000) < share) + 1
        assert recall(vectors.view(), queries, 10, RowSet(rows)) >= 0.99
    for count in (5_000, 1_000):  # half of the clusters, and a tenth
        assert recall(vectors.view(), queries, 10, RowSet(np.arange(1, count + 1))) >= 0.99


def test_vectors_without_any_order_are_compared_one_by_one() -> None:
    with patch("service.index.planner.EFFORTS", (4, 8)):
        assert planner.build(unit_rows(np.random.default_rng(0).normal(size=(5_000, 64)), 64)) is None


def test_measured_recall_is_that_of_queries_nobody_has_seen(
    view: View, clustered: tuple[Vector, npt.NDArray[np.int64], Vector]
) -> None:
    assert view.main is not None
    assert view.main.approximate is not None
    measured = view.main.approximate.effort.recall
    assert measured >= planner.TARGET_RECALL
    assert abs(measured - recall(view, clustered[2], 10)) < 0.01


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_index_gets_more_vectors_and_finds_them_as_well(
    kind: Kind,
    clustered: tuple[Vector, npt.NDArray[np.int64], Vector],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, _, queries = clustered
    monkeypatch.setattr(planner, "KINDS", (kind,))
    index, effort = planner.build(vectors[:8_000])
    for end in (9_000, 9_001, N):
        effort = planner.extend(index, effort, vectors[:end])
        assert effort is not None
        assert (effort.kind, effort.built, index.ntotal) == (kind, 8_000, end)
    approximate = ApproximateIndex(index, N, effort)
    scores, at, _ = approximate.search(vectors, queries, 10, 10, None)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[at]), atol=1e-6)
    truth = np.sort(queries @ vectors.T, axis=1)[:, -10]
    assert np.mean(scores >= truth[:, None] - 1e-6) >= 0.985
    _, at, _ = approximate.search(vectors, vectors, 1, 10, None)
    assert np.mean(at[:, 0] == np.arange(N)) >= 0.99


def test_an_index_that_can_find_no_more_in_what_is_added_is_built_anew(
    clustered: tuple[Vector, npt.NDArray[np.int64], Vector], tmp_path: Path
) -> None:
    vectors = clustered[0][:3_000]
    index, effort = planner.build(vectors[:2_000])
    with patch.object(planner, "EFFORTS", (1,)):
        assert planner.extend(index, effort, vectors) is None
    folder, grown, anew = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for each in (folder, grown, anew):
        each.mkdir()
    vectors[:2_000].tofile(folder / build_worker.VECTORS)
    built = build_worker.build(folder, D, 1, lambda: None)
    assert built.effort is not None
    there = ApproximateIndex.read(folder / build_worker.INDEX, built.effort)
    vectors[2_000:].tofile(grown / build_worker.MORE)
    more = build_worker.build(grown, D, 1, lambda: None, there)
    assert more.effort is not None
    assert more.effort.built == 2_000
    assert (grown / build_worker.VECTORS).read_bytes() == vectors.tobytes()
    assert sorted(p.name for p in grown.iterdir()) == sorted(more.files) == [build_worker.INDEX, build_worker.VECTORS]
    assert more.files == {name: describe(grown / name) for name in more.files}
    vectors[2_000:].tofile(anew / build_worker.MORE)
    with patch.object(planner, "extend", return_value=None):
        build_worker.main(build_worker._Task(str(anew), D, 1, str(there.path), asdict(built.effort)))
    assert json.loads((anew / build_worker._BUILT).read_bytes())["reach"]["built"] == 3_000


def test_what_both_need_is_the_greater_effort_and_the_lesser_recall() -> None:
    one, other = SearchEffort("hnsw", 16, 128, 1024, 0.995, 100), SearchEffort("hnsw", 24, 96, None, 0.993, 100)
    assert one.widened(other) == SearchEffort("hnsw", 24, 128, None, 0.993, 100)


def test_a_build_that_is_not_wanted_any_more_leaves_no_process(tmp_path: Path) -> None:
    np.random.default_rng(0).normal(size=(200_000, 32)).astype("<f4").tofile(tmp_path / build_worker.VECTORS)
    looks = []

    def check() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise InterruptedError

    before = children()
    with pytest.raises(InterruptedError):
        build_worker.build(tmp_path, 32, 1, check)
    assert children() <= before


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"vectors\.f32"):
        build_worker.build(tmp_path, 32, 1, lambda: None)


def test_a_child_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    np.random.default_rng(0).normal(size=(200_000, 32)).astype("<f4").tofile(tmp_path / build_worker.VECTORS)
    code = (
        "import sys; from pathlib import Path; from service.index import build_worker\n"
        "build_worker.build(Path(sys.argv[1]), 32, 1, lambda: print('building', flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    mine = children(parent.pid)
    parent.kill()
    parent.communicate()
    assert mine
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in mine):
        assert time.monotonic() < until
        time.sleep(0.05)


def children(pid: int | None = None) -> set[int]:
    tasks = Path("/proc/self/task" if pid is None else f"/proc/{pid}/task")
    return {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}


@pytest.mark.parametrize("count", [10, 11, 399, 5_000])
def test_every_vector_is_found_under_its_own_position(count: int) -> None:
    """Those too that were held out while the index was measured, and those that were added later."""
    x = unit_rows(np.random.default_rng(count).normal(size=(count, 8)), 8)
    held = held_out(count)
    assert len(held) == min(400, max(1, count // 10))
    flat = faiss.IndexFlatIP(8)
    flat.add(np.delete(x, held, axis=0))
    flat.add(x[held])
    later = unit_rows(np.random.default_rng(0).normal(size=(7, 8)), 8)
    flat.add(later)
    index = ApproximateIndex(flat, count + 7, SearchEffort("hnsw", 64, 64, 64, 1.0, count))
    x = np.concatenate([x, later])
    np.testing.assert_array_equal(x[index._position_of[np.arange(count + 7)]], flat.reconstruct_n(0, count + 7))
    assert index._position_of[-1] == -1


def test_an_effort_is_plain_enough_for_a_manifest() -> None:
    effort = SearchEffort("hnsw", 16, 128, None, 0.995, 20_000)
    assert SearchEffort(**json.loads(json.dumps(effort.__dict__))) == effort
    assert not issubclass(ChildFailed, ServiceError)
