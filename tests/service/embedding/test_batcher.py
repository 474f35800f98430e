from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from service.concurrency.throughput import Throughput
from service.embedding.batcher import Batcher
from service.errors import DeadlinePassed, EmbedderRestarted, InferenceFailed, Stopping

Floats = NDArray[np.float32]
TIMEOUT_S = 20.0


def pixels(value: float) -> Floats:
    return np.full((3, 2, 2), value, dtype=np.float32)


class Network:
    """A runtime whose global token is the image's first pixel; it can be held, and it fails on -1."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.patches: list[bool] = []  # whether each gave them
        self.fits = 1_000  # images at once
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, batch: Floats, patches: bool, /) -> tuple[Floats, Floats | None]:
        values = batch[:, 0, 0, 0]
        self.batches.append(values.tolist())
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        if (values == -1).any():
            raise ValueError("a poisoned image")
        if len(values) > self.fits:
            raise MemoryError("too large")
        if (values == -2).any():
            raise SystemExit("the worker dies")
        self.patches.append(patches)
        return values[:, None], batch.reshape(len(batch), -1, 3) if patches else None

    def hold(self) -> None:
        self.entered.clear()
        self.gate.clear()


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def batcher(network: Network) -> Iterator[Batcher]:
    made = Batcher(network, batch_images=4, batch_wait_s=0.0)
    yield made
    network.gate.set()
    made.close()


def occupy(batcher: Batcher, network: Network) -> None:
    """Hold the worker inside a batch, so that what is submitted next waits together."""
    network.hold()
    batcher.submit(pixels(0))
    assert network.entered.wait(TIMEOUT_S)


def test_each_image_gets_its_own_row(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value)) for value in range(1, 8)]
    network.gate.set()
    assert [float(future.result(TIMEOUT_S).global_token[0]) for future in futures] == list(range(1, 8))
    assert futures[0].result().patch_tokens.shape == (4, 3)
    assert futures[0].result().infer_s >= 0
    assert futures[0].result().queue_s >= 0


def test_patch_tokens_are_computed_for_a_batch_in_which_somebody_wants_them_and_given_to_them_alone(
    batcher: Batcher, network: Network
) -> None:
    occupy(batcher, network)
    wanted = [False] * 4 + [False, True, False]
    futures = [batcher.submit(pixels(1), patches=patches) for patches in wanted]
    network.gate.set()
    assert [future.result(TIMEOUT_S).patch_tokens is not None for future in futures] == wanted
    assert network.patches == [True, False, True]  # what `occupy` submits wants all


def test_waiting_images_share_a_batch_up_to_its_size(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value)) for value in range(1, 7)]
    network.gate.set()
    for future in futures:
        future.result(TIMEOUT_S)
    assert network.batches == [[0], [1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize("position", range(4))
def test_s19_a_failing_image_fails_alone_in_its_batch(batcher: Batcher, network: Network, position: int) -> None:
    occupy(batcher, network)
    values = [1.0, 2.0, 3.0, 4.0]
    values[position] = -1
    futures = [batcher.submit(pixels(value)) for value in values]
    network.gate.set()
    for index, future in enumerate(futures):
        if index == position:
            with pytest.raises(InferenceFailed) as caught:
                future.result(TIMEOUT_S)
            assert isinstance(caught.value.__cause__, ValueError)
        else:
            assert float(future.result(TIMEOUT_S).global_token[0]) == values[index]
    assert len(network.batches) == 2 + 4  # each was tried once more, and once only
    assert batcher.alive()


def test_a_failing_batch_of_one_is_not_tried_twice(batcher: Batcher, network: Network) -> None:
    with pytest.raises(InferenceFailed):
        batcher.submit(pixels(-1)).result(TIMEOUT_S)
    assert network.batches == [[-1]]


def test_a_cancelled_image_is_not_computed(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value)) for value in (1, 2, 3)]
    assert futures[1].cancel()
    network.gate.set()
    futures[2].result(TIMEOUT_S)
    assert network.batches == [[0], [1, 3]]


def test_a_batch_that_was_cancelled_as_a_whole_is_not_run(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    assert batcher.submit(pixels(1)).cancel()
    network.gate.set()
    batcher.submit(pixels(2)).result(TIMEOUT_S)
    assert [1] not in network.batches


def test_an_image_waits_no_longer_than_told_for_company() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=4, batch_wait_s=0.01)
    batcher.submit(pixels(1)).result(TIMEOUT_S)
    batcher.close()
    assert network.batches == [[1]]


def test_a_full_batch_does_not_wait() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=2, batch_wait_s=10 * TIMEOUT_S)
    futures = [batcher.submit(pixels(value)) for value in (1, 2)]
    for future in futures:
        future.result(TIMEOUT_S)
    batcher.close()


def test_closing_computes_what_waits_and_refuses_what_comes_after(network: Network) -> None:
    batcher = Batcher(network, batch_images=2, batch_wait_s=0.0)
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value)) for value in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    network.gate.set()
    closing.join(TIMEOUT_S)
    assert [float(future.result(0).global_token[0]) for future in futures] == [1, 2, 3]
    assert not batcher.alive()
    with pytest.raises(Stopping):
        batcher.submit(pixels(4))
    batcher.close()


def test_s19_what_would_end_the_thread_ends_its_batch_and_the_thread_goes_on(network: Network) -> None:
    batcher = Batcher(network, batch_images=2, batch_wait_s=0.0)
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value)) for value in (-2, 1, 2, 3)]
    network.gate.set()
    for future in futures[:2]:
        with pytest.raises(EmbedderRestarted):
            future.result(TIMEOUT_S)
    assert [float(future.result(TIMEOUT_S).global_token[0]) for future in futures[2:]] == [2, 3]
    assert batcher.alive()
    batcher.close()


def test_s19_a_batch_that_memory_does_not_suffice_for_is_halved_and_later_ones_stay_so_small(network: Network) -> None:
    batcher = Batcher(network, batch_images=8, batch_wait_s=0.0)
    network.fits = 3
    for _ in range(2):
        network.batches.clear()
        occupy(batcher, network)
        futures = [batcher.submit(pixels(value)) for value in range(1, 9)]
        network.gate.set()
        assert [float(future.result(TIMEOUT_S).global_token[0]) for future in futures] == list(range(1, 9))
        batches, network.batches = network.batches, []
    assert batches == [[0], [1, 2], [3, 4], [5, 6], [7, 8]]
    network.fits = 0
    with pytest.raises(InferenceFailed):
        batcher.submit(pixels(1)).result(TIMEOUT_S)
    batcher.close()


def test_an_image_that_nobody_can_use_any_more_is_not_computed(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    late, in_time = batcher.submit(pixels(1), time.monotonic()), batcher.submit(pixels(2), time.monotonic() + 60)
    network.gate.set()
    with pytest.raises(DeadlinePassed):
        late.result(TIMEOUT_S)
    assert float(in_time.result(TIMEOUT_S).global_token[0]) == 2
    assert network.batches == [[0], [2]]


def test_interactive_images_go_before_bulk_and_bulk_not_last_for_ever(
    batcher: Batcher, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.concurrency.priority_queue.BULK_PATIENCE_S", 0.2)
    occupy(batcher, network)
    futures = [batcher.submit(pixels(value), bulk=True) for value in (1, 2, 3)]
    futures += [batcher.submit(pixels(value)) for value in (4, 5)]
    time.sleep(0.3)
    futures.append(batcher.submit(pixels(6)))
    network.gate.set()
    for future in futures:
        future.result(TIMEOUT_S)
    assert network.batches == [[0], [4, 5, 1, 2], [3, 6]]


def test_nothing_waits_where_no_company_is_on_its_way() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=4, batch_wait_s=10 * TIMEOUT_S, company=lambda: False)
    batcher.submit(pixels(1)).result(TIMEOUT_S)
    batcher.close()
    assert network.batches == [[1]]


def test_two_lanes_compute_side_by_side_and_share_what_may_be_in_hand(network: Network) -> None:
    batcher = Batcher(network, batch_images=5, batch_wait_s=0.0, lanes=2)
    network.hold()
    running = []
    for value in (1, 2):
        network.entered.clear()
        running.append(batcher.submit(pixels(value)))
        assert network.entered.wait(TIMEOUT_S)
    assert network.batches == [[1], [2]]
    futures = [batcher.submit(pixels(value)) for value in (3, 4, 5, 6, -1, 7)]
    network.gate.set()
    for future in (*running, *futures[:4], futures[5]):
        future.result(TIMEOUT_S)
    with pytest.raises(InferenceFailed):
        futures[4].result(TIMEOUT_S)
    assert sorted(network.batches[2:4]) == [[3, 4, 5], [6, -1, 7]]
    batcher.close()
    assert not batcher.alive()


def test_with_two_lanes_every_future_ends_and_no_lane_does(network: Network) -> None:
    with closing(Batcher(network, batch_images=4, batch_wait_s=0.001, lanes=2)) as batcher:
        for _ in range(50):
            futures = [batcher.submit(pixels(value), bulk=value % 2 == 0) for value in (1, -2, 2, -1, 3, 4, 5, 6, 7)]
            futures[5].cancel()
            wait(futures, TIMEOUT_S)
            assert all(future.done() for future in futures)
        assert batcher.alive()


def test_the_time_of_an_image_is_that_of_all_lanes_together() -> None:
    pace = Throughput(passes=5)
    assert pace.seconds_each == 0
    for second in range(0, 20, 2):  # two lanes, each two images in two seconds, a second apart
        pace.record(2, begun=second, ended=second + 2)
        pace.record(2, begun=second + 1, ended=second + 3)
    assert pace.seconds_each == pytest.approx(0.5, abs=0.05)
    for second in range(100, 150):  # one image a second, and pauses between them that count for nothing
        pace.record(1, begun=2 * second, ended=2 * second + 1)
    assert pace.seconds_each == pytest.approx(1, abs=0.01)


def test_a_runtime_that_gives_too_few_rows_fails_the_images_and_not_the_thread() -> None:
    batcher = Batcher(lambda batch, patches: (batch[:0, 0, 0], batch[:0, 0]), batch_images=2, batch_wait_s=0.0)
    with pytest.raises(InferenceFailed):
        batcher.submit(pixels(1)).result(TIMEOUT_S)
    assert batcher.alive()
    batcher.close()
