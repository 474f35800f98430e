"""The processes of a run are told why they cannot meet, before they wait for each other."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from training.errors import CannotMeet
from training.processes.meeting import check_meeting
from training.processes.world import World


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_u04_a_port_in_use_is_one_sentence_for_the_first_process_alone(taken: int) -> None:
    with pytest.raises(CannotMeet, match=f"port {taken} is in use; set MASTER_PORT"):
        check_meeting(World(2, 0, 0, 2, "torchrun", "127.0.0.1", taken), print)
    check_meeting(World(2, 1, 1, 2, "torchrun", "127.0.0.1", taken), print)


def test_u04_a_single_process_needs_no_place_to_meet(taken: int) -> None:
    check_meeting(World(1, 0, 0, 1, "torchrun", "127.0.0.1", taken), print)
    check_meeting(World(1, 0, 0, 1, "torchrun", "no.such.host.invalid", 29500), print, wait_s=0.01)


def test_u04_a_name_without_an_address_is_waited_for_and_then_one_sentence() -> None:
    said: list[str] = []
    with pytest.raises(CannotMeet, match=r"no\.such\.host\.invalid \(MASTER_ADDR\) has no address"):
        check_meeting(World(2, 1, 1, 2, "torchrun", "no.such.host.invalid", 29500), said.append, wait_s=0.01)
    assert said == ["waiting for no.such.host.invalid (MASTER_ADDR) to have an address"]
