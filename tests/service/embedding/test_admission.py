from __future__ import annotations

from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from service.embedding.admission import NEVER, Admission, AdmissionLimits, Ticket
from service.errors import DeadlinePassed, InferenceFailed, Saturated, Stopping

IMAGE = b"12345"


def make_admission(queue_images: int = 4, queue_bytes: int = 100, seconds_per_image: float = 0.0) -> Admission:
    limits = AdmissionLimits(queue_images, queue_bytes, embed_timeout_s=30.0, queue_wait_s=4.0)
    return Admission(limits, 2, lambda: seconds_per_image)


def make_tickets(admission: Admission, images: int, bulk: bool = False) -> list[Ticket]:
    return [Ticket(admission, IMAGE, True, False, False, NEVER, bulk) for _ in range(images)]


def test_a_request_has_room_for_all_of_its_images_or_for_none() -> None:
    admission = make_admission()
    admission.enter(make_tickets(admission, 3), patient=False)
    with pytest.raises(Saturated, match="3 images wait to be embedded and the limit is 4;"):
        admission.enter(make_tickets(admission, 2), patient=False)
    assert (admission.images, admission.bytes) == (3, 15)
    admission.enter(make_tickets(admission, 1), patient=False)
    assert isinstance(admission.refusal(), Saturated)


def test_bytes_are_bounded_too() -> None:
    admission = make_admission(queue_bytes=12)
    admission.enter(make_tickets(admission, 2), patient=False)
    with pytest.raises(Saturated, match="images of 10 bytes wait to be embedded and the limit is 12;"):
        admission.enter(make_tickets(admission, 1), patient=False)


def test_only_work_that_somebody_waits_for_is_in_front_of_few_images() -> None:
    admission = make_admission(queue_images=100, queue_bytes=1000, seconds_per_image=1.0)
    admission.enter(make_tickets(admission, 20, bulk=True), patient=False)
    assert admission.refusal() is None
    admission.enter(make_tickets(admission, 3), patient=False)
    admission.enter(make_tickets(admission, 1), patient=False)
    with pytest.raises(Saturated, match="takes 5 s"):
        admission.enter(make_tickets(admission, 1), patient=False)
    with pytest.raises(Saturated, match="takes 31 s"):
        admission.enter(make_tickets(admission, 7, bulk=True), patient=False)
    admission.enter(make_tickets(admission, 7, bulk=True), patient=True)


def test_a_place_is_free_before_the_caller_hears_of_the_end() -> None:
    admission = make_admission()
    [ticket] = make_tickets(admission, 1)
    admission.enter([ticket], patient=False)
    found: list[int] = []
    ticket.ended.add_done_callback(lambda _: found.append(admission.images))
    ticket.finish()
    assert found == [0]


@pytest.mark.parametrize("first", ["finish", "error", "cancel"])
def test_of_several_ends_the_first_one_counts(first: str) -> None:
    admission = make_admission()
    [ticket] = make_tickets(admission, 1)
    admission.enter([ticket], patient=False)
    ticket.pixels = np.zeros((3, 2, 2), np.float32)
    if first == "cancel":
        assert ticket.cancel()
    else:
        ticket.finish(InferenceFailed("first") if first == "error" else None)
    ticket.finish()
    ticket.finish(DeadlinePassed("second"))
    assert not ticket.cancel()
    assert (admission.images, admission.bytes, ticket.image, ticket.pixels) == (0, 0, b"", None)
    if first == "cancel":
        with pytest.raises(CancelledError):
            ticket.ended.result(0)
    else:
        assert isinstance(ticket.ended.exception(0), InferenceFailed if first == "error" else type(None))


def test_a_ticket_tells_whether_its_end_spares_the_last_stage() -> None:
    admission = make_admission()
    waiting, decoding, computing, decoded_alone = make_tickets(admission, 4)
    decoding.decoding_at = computing.decoding_at = computing.computing_at = decoded_alone.decoding_at = 1.0
    decoded_alone.computed = False
    assert [ticket.cancel() for ticket in (waiting, decoding, computing, decoded_alone)] == [True, True, False, False]


def test_ends_that_race_free_a_place_once() -> None:
    admission = make_admission(queue_images=1000, queue_bytes=10_000)
    with ThreadPoolExecutor(3) as pool:
        for _ in range(50):
            tickets = make_tickets(admission, 10)
            admission.enter(tickets, patient=True)
            ways = (Ticket.finish, Ticket.cancel, lambda ticket: ticket.finish(DeadlinePassed("late")))
            for each in [pool.submit(lambda way=way, tickets=tickets: [way(t) for t in tickets]) for way in ways]:  # type: ignore[misc]
                each.result(20)
            assert all(ticket.ended.done() for ticket in tickets)
            assert (admission.images, admission.bytes) == (0, 0)
    assert admission.refusal() is None


def test_a_closed_door_lets_nobody_in_and_those_inside_end_as_ever() -> None:
    admission = make_admission()
    [ticket] = make_tickets(admission, 1)
    admission.enter([ticket], patient=False)
    admission.close()
    with pytest.raises(Stopping):
        admission.enter(make_tickets(admission, 1), patient=False)
    assert isinstance(admission.refusal(), Stopping)
    ticket.finish()
    assert admission.images == 0
