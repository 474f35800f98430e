"""The state of a request: one for all layers, beside what the framework keeps in the same place."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.types import Scope

from service.http.request_state import Timings, request_state


def test_all_who_see_a_request_see_one_state_and_so_do_those_that_get_a_copy_of_its_scope() -> None:
    scope: Scope = {"type": "http"}
    state = request_state(scope)
    assert (state.request_id, state.key, state.code) == ("", None, None)
    request_state({**scope, "path": "/another"}).code = "saturated"
    assert request_state(scope) is state
    assert state.code == "saturated"


def test_what_a_lifespan_gives_to_every_request_is_shared_and_our_state_is_not() -> None:
    lifespan = {"pool": object()}
    first: Scope = {"type": "http", "state": lifespan.copy()}  # as web servers make it
    second: Scope = {"type": "http", "state": lifespan.copy()}
    request_state(first).key = "mine"
    assert request_state(second).key is None
    assert Request(first).state.pool is Request(second).state.pool is lifespan["pool"]
    assert list(lifespan) == ["pool"]


def test_a_stage_counts_the_sum_of_its_blocks_and_the_longest_of_what_goes_side_by_side() -> None:
    timings = Timings()
    assert timings.header() == ""
    for seconds in (0.02, 0.03, 0.01):
        timings.longest("decode", seconds)
    assert timings.header() == "decode;dur=30.00"
    with timings.measure("search"):
        pass
    first = timings.seconds["search"]
    with pytest.raises(KeyError), timings.measure("search"):
        raise KeyError("counted all the same")
    assert timings.seconds["search"] > first > 0
