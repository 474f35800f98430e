"""Work that somebody waits for, and that ends when they hang up: nobody else would get their vector, and others wait.

So for what the network computes, and for searches, which run in their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.api.dependencies import get_service, timings
from service.errors import CallerLeft

T = TypeVar("T")


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work gives; cancel it when the caller's connection ends first. The body must have been read.

    Raises:
        CallerLeft: it did; nobody reads the answer that this becomes.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerLeft("the caller left before the answer was there.")
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def searched(request: Request, work: Callable[[], T], queries: int = 1) -> T:
    """Return what a search of so many queries gives, once its turn has come; counts the wait and the search as stages.

    Raises:
        Saturated: too much waits already.
        DeadlinePassed: the turn did not come in time; nothing was searched.
        CallerLeft: the caller hung up before it came; nothing was searched. A thread that computes cannot be given up.
    """
    line, stages = get_service(request).searches, timings(request)
    with line.slot(queries) as slot:
        if not slot.granted.is_set():
            with stages.measure("queue"):
                await unless_left(request, line.wait_until_granted(slot))
        with stages.measure("search"):
            return await line.run(slot, work)
