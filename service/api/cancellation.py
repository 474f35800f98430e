"""Cancellation: work ends when the caller who waits for it hangs up, for nobody else would get its result, and others wait.

So for what the network computes, and for searches, which wait in a queue first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from service.api.dependencies import get_service, timings
from service.errors import CallerLeft

T = TypeVar("T")


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work gives; cancel it when the caller's connection ends first. The body must have been read.

    Raises:
        CallerLeft: it did; nobody reads the answer that this becomes.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise CallerLeft("the caller left before the answer was there.")
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def run_search(request: Request, work: Callable[[], T], queries: int = 1) -> T:
    """Return what a search of so many queries gives, once it has a slot; count the wait and the search as stages.

    Raises:
        Saturated: too much waits already.
        DeadlinePassed: no slot came free in time; nothing was searched.
        CallerLeft: the caller hung up before it had one; nothing was searched. A thread that computes cannot be given up.
    """
    queue, stages = get_service(request).searches, timings(request)
    with queue.slot(queries) as slot:
        if not slot.granted.is_set():
            with stages.measure("queue"):
                await cancel_on_disconnect(request, queue.wait_until_granted(slot))
        with stages.measure("search"):
            return await queue.run(slot, work)
