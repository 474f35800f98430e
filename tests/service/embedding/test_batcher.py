from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing, suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from service.embedding.admission import NEVER, Admission, AdmissionLimits, Ticket
from service.embedding.batcher import Batcher
from service.errors import DeadlinePassed, EmbedderRestarted, InferenceFailed, Stopping

Floats = NDArray[np.float32]
TIMEOUT_S = 20.0


def pixels(value: float) -> Floats:
    return np.full((3, 2, 2), value, dtype=np.float32)


def submit(
    batcher: Batcher, value: float, *, deadline: float = NEVER, bulk: bool = False, patches: bool = True
) -> Ticket:
    """Submit an image that was admitted and decoded."""
    admission = Admission(AdmissionLimits(1, 1, embed_timeout_s=TIMEOUT_S, queue_wait_s=TIMEOUT_S), 1, lambda: 0.0)
    ticket = Ticket(admission, b"x", True, patches, False, deadline, bulk)
    admission.enter([ticket], patient=False)
    batcher.submit(ticket, pixels(value))
    return ticket


def found(ticket: Ticket) -> float:
    """Wait for an image's end and return its global token."""
    ticket.ended.result(TIMEOUT_S)
    assert ticket.tokens is not None
    return float(ticket.tokens[0][0])


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
    submit(batcher, 0)
    assert network.entered.wait(TIMEOUT_S)


def test_each_image_gets_its_own_row(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    tickets = [submit(batcher, value) for value in range(1, 8)]
    network.gate.set()
    assert [found(ticket) for ticket in tickets] == list(range(1, 8))
    assert tickets[0].tokens is not None
    assert tickets[0].tokens[1] is not None
    assert tickets[0].tokens[1].shape == (4, 3)
    assert tickets[0].admitted_at <= tickets[0].computing_at <= tickets[0].computed_at <= time.monotonic()
    assert tickets[0].admission.images == 0


def test_patch_tokens_are_computed_for_a_batch_in_which_somebody_wants_them_and_given_to_them_alone(
    batcher: Batcher, network: Network
) -> None:
    occupy(batcher, network)
    wanted = [False] * 4 + [False, True, False]
    tickets = [submit(batcher, 1, patches=patches) for patches in wanted]
    network.gate.set()
    for ticket in tickets:
        found(ticket)
    assert [ticket.tokens is not None and ticket.tokens[1] is not None for ticket in tickets] == wanted
    assert network.patches == [True, False, True]  # what `occupy` submits wants all


def test_waiting_images_share_a_batch_up_to_its_size(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    tickets = [submit(batcher, value) for value in range(1, 7)]
    network.gate.set()
    for ticket in tickets:
        found(ticket)
    assert network.batches == [[0], [1, 2, 3, 4], [5, 6]]


@pytest.mark.parametrize("position", range(4))
def test_s19_a_failing_image_fails_alone_in_its_batch(batcher: Batcher, network: Network, position: int) -> None:
    occupy(batcher, network)
    values = [1.0, 2.0, 3.0, 4.0]
    values[position] = -1
    tickets = [submit(batcher, value) for value in values]
    network.gate.set()
    for index, ticket in enumerate(tickets):
        if index == position:
            with pytest.raises(InferenceFailed) as caught:
                found(ticket)
            assert isinstance(caught.value.__cause__, ValueError)
        else:
            assert found(ticket) == values[index]
    assert len(network.batches) == 2 + 4  # each was tried once more, and once only
    assert batcher.alive()


def test_a_failing_batch_of_one_is_not_tried_twice(batcher: Batcher, network: Network) -> None:
    with pytest.raises(InferenceFailed):
        found(submit(batcher, -1))
    assert network.batches == [[-1]]


def test_a_cancelled_image_is_not_computed(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    tickets = [submit(batcher, value) for value in (1, 2, 3)]
    assert tickets[1].cancel()
    network.gate.set()
    found(tickets[2])
    assert network.batches == [[0], [1, 3]]


def test_an_image_that_was_cancelled_before_it_was_decoded_is_not_queued(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    ticket = submit(batcher, 1)
    assert ticket.cancel()
    batcher.submit(ticket, pixels(1))
    assert ticket.pixels is None
    assert batcher.waiting == 1  # from before
    network.gate.set()
    found(submit(batcher, 2))
    assert network.batches == [[0], [2]]


def test_an_image_that_ends_while_it_is_computed_keeps_that_end(batcher: Batcher, network: Network) -> None:
    network.hold()
    late = submit(batcher, 1)
    assert network.entered.wait(TIMEOUT_S)
    late.finish(DeadlinePassed("late"))
    network.gate.set()
    assert found(submit(batcher, 2)) == 2
    assert isinstance(late.ended.exception(0), DeadlinePassed)
    assert network.batches == [[1], [2]]


def test_a_batch_that_was_cancelled_as_a_whole_is_not_run(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    assert submit(batcher, 1).cancel()
    network.gate.set()
    found(submit(batcher, 2))
    assert [1] not in network.batches


def test_an_image_waits_no_longer_than_told_for_others() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=4, batch_wait_s=0.01)
    found(submit(batcher, 1))
    batcher.close()
    assert network.batches == [[1]]


def test_a_full_batch_does_not_wait() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=2, batch_wait_s=10 * TIMEOUT_S)
    tickets = [submit(batcher, value) for value in (1, 2)]
    for ticket in tickets:
        found(ticket)
    batcher.close()


def test_closing_computes_what_waits_and_refuses_what_comes_after(network: Network) -> None:
    batcher = Batcher(network, batch_images=2, batch_wait_s=0.0)
    occupy(batcher, network)
    tickets = [submit(batcher, value) for value in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    network.gate.set()
    closing.join(TIMEOUT_S)
    assert [found(ticket) for ticket in tickets] == [1, 2, 3]
    assert not batcher.alive()
    with pytest.raises(Stopping):
        submit(batcher, 4)
    batcher.close()


def test_s19_what_would_end_the_thread_ends_its_batch_and_the_thread_goes_on(network: Network) -> None:
    batcher = Batcher(network, batch_images=2, batch_wait_s=0.0)
    occupy(batcher, network)
    tickets = [submit(batcher, value) for value in (-2, 1, 2, 3)]
    network.gate.set()
    for ticket in tickets[:2]:
        with pytest.raises(EmbedderRestarted):
            found(ticket)
    assert [found(ticket) for ticket in tickets[2:]] == [2, 3]
    assert batcher.alive()
    batcher.close()


def test_s19_a_batch_that_memory_does_not_suffice_for_is_halved_and_later_ones_stay_so_small(network: Network) -> None:
    batcher = Batcher(network, batch_images=8, batch_wait_s=0.0)
    network.fits = 3
    for _ in range(2):
        network.batches.clear()
        occupy(batcher, network)
        tickets = [submit(batcher, value) for value in range(1, 9)]
        network.gate.set()
        assert [found(ticket) for ticket in tickets] == list(range(1, 9))
        batches, network.batches = network.batches, []
    assert batches == [[0], [1, 2], [3, 4], [5, 6], [7, 8]]
    network.fits = 0
    with pytest.raises(InferenceFailed):
        found(submit(batcher, 1))
    batcher.close()


def test_an_image_that_nobody_can_use_any_more_is_not_computed(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    late, in_time = submit(batcher, 1, deadline=time.monotonic()), submit(batcher, 2, deadline=time.monotonic() + 60)
    network.gate.set()
    with pytest.raises(DeadlinePassed):
        found(late)
    assert found(in_time) == 2
    assert network.batches == [[0], [2]]


def test_interactive_images_go_before_bulk_and_bulk_not_last_for_ever(
    batcher: Batcher, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.concurrency.priority_queue.BULK_DELAY_S", 0.2)
    occupy(batcher, network)
    tickets = [submit(batcher, value, bulk=True) for value in (1, 2, 3)]
    tickets += [submit(batcher, value) for value in (4, 5)]
    time.sleep(0.3)
    tickets.append(submit(batcher, 6))
    network.gate.set()
    for ticket in tickets:
        found(ticket)
    assert network.batches == [[0], [4, 5, 1, 2], [3, 6]]


def test_nothing_waits_where_no_others_are_on_their_way() -> None:
    network = Network()
    batcher = Batcher(network, batch_images=4, batch_wait_s=10 * TIMEOUT_S, more_coming=lambda: False)
    found(submit(batcher, 1))
    batcher.close()
    assert network.batches == [[1]]


def test_two_lanes_compute_side_by_side_and_share_what_may_be_in_hand(network: Network) -> None:
    batcher = Batcher(network, batch_images=5, batch_wait_s=0.0, streams=2)
    network.hold()
    running = []
    for value in (1, 2):
        network.entered.clear()
        running.append(submit(batcher, value))
        assert network.entered.wait(TIMEOUT_S)
    assert network.batches == [[1], [2]]
    tickets = [submit(batcher, value) for value in (3, 4, 5, 6, -1, 7)]
    network.gate.set()
    for ticket in (*running, *tickets[:4], tickets[5]):
        found(ticket)
    with pytest.raises(InferenceFailed):
        found(tickets[4])
    assert sorted(network.batches[2:4]) == [[3, 4, 5], [6, -1, 7]]
    batcher.close()
    assert not batcher.alive()


def test_with_two_lanes_every_ticket_ends_and_no_lane_does(network: Network) -> None:
    with closing(Batcher(network, batch_images=4, batch_wait_s=0.001, streams=2)) as batcher:
        for _ in range(50):
            tickets = [submit(batcher, value, bulk=value % 2 == 0) for value in (1, -2, 2, -1, 3, 4, 5, 6, 7)]
            tickets[5].cancel()
            for ticket in tickets:
                with suppress(InferenceFailed, EmbedderRestarted, CancelledError):
                    found(ticket)
            assert all(ticket.admission.images == 0 for ticket in tickets)
        assert batcher.alive()


def test_a_runtime_that_gives_too_few_rows_fails_the_images_and_not_the_thread() -> None:
    batcher = Batcher(lambda batch, patches: (batch[:0, 0, 0], batch[:0, 0]), batch_images=2, batch_wait_s=0.0)
    with pytest.raises(InferenceFailed):
        found(submit(batcher, 1))
    assert batcher.alive()
    batcher.close()
