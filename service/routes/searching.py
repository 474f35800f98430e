"""Searches as the routes run them: in their turn, and given up where the caller hangs up before it has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastapi import Request

from service.routes.leaving import unless_left
from service.routes.state import get_service, timings

T = TypeVar("T")


async def searched(request: Request, work: Callable[[], T], queries: int = 1) -> T:
    """Return what a search of so many queries gives, once its turn has come; counts the wait and the search as stages.

    Raises:
        Saturated: too much waits already.
        DeadlinePassed: the turn did not come in time; nothing was searched.
        CallerLeft: the caller hung up before it came; nothing was searched. A thread that computes cannot be given up.
    """
    line, stages = get_service(request).searches, timings(request)
    with line.turn(queries) as turn:
        if not turn.come.is_set():
            with stages.measure("queue"):
                await unless_left(request, line.reach(turn))
        with stages.measure("search"):
            return await line.run(turn, work)
