"""Load on raw connections, which cost the generator little: a closed loop of callers, or an open one whose requests are sent when their
time has come, whatever became of those before.

python benchmarks/serving_load.py PORT BODY CALLERS PER_S SECONDS
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEED = 5


@dataclass(frozen=True)
class Asked:
    """One request."""

    sent_s: float  # when it was meant to be sent, from the start
    took_s: float  # from then to the end of its answer
    status: int  # 0 where there was none
    retry_after: bool


class Caller:
    """Connections to one port, kept for the next request."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port = port
        self._request = request
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, begun: float, sent_s: float) -> Asked:
        """Send the request, and read its answer."""
        head = b""
        while not head and self._idle:
            head = await self._over(*self._idle.pop())  # or nothing, where it was closed while it was idle
        if not head:
            head = await self._over(*await asyncio.open_connection("127.0.0.1", self._port))
        took_s = time.monotonic() - begun - sent_s
        return Asked(sent_s, took_s, int(head.split()[1]) if head else 0, b"\r\nretry-after: " in head)

    async def _over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the head of the answer that comes over this connection, in small letters; nothing where it is closed."""
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return b""
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head

    def close(self) -> None:
        """Close what is open."""
        for _, writer in self._idle:
            writer.close()


async def closed_loop(port: int, request: bytes, callers: int, seconds: float) -> list[Asked]:
    """Have so many callers ask one request after the other."""
    caller, begun = Caller(port, request), time.monotonic()

    async def one() -> list[Asked]:
        found = []
        while (now := time.monotonic() - begun) < seconds:
            found.append(await caller.ask(begun, now))
        return found

    answered = await asyncio.gather(*(one() for _ in range(callers)))
    caller.close()
    return [each for found in answered for each in found]


async def open_loop(port: int, request: bytes, per_s: float, seconds: float, seed: int) -> list[Asked]:
    """Send requests at random moments (Poisson), so many a second."""
    caller, begun = Caller(port, request), time.monotonic()
    draw = random.Random(seed)
    asked, at = [], 0.0
    while (at := at + draw.expovariate(per_s)) < seconds:
        await asyncio.sleep(max(0.0, begun + at - time.monotonic()))
        asked.append(asyncio.create_task(caller.ask(begun, at)))
    answered = await asyncio.gather(*asked)
    caller.close()
    return answered


def percentile(asked: list[Asked], share: float) -> float:
    """Return the milliseconds that this share of the requests took at most."""
    return float(np.percentile([each.took_s for each in asked], share)) * 1000 if asked else 0.0


def request_of(body: bytes, content_type: str) -> bytes:
    """Return the bytes of a request to embed."""
    head = f"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def main(port: int, body: Path, callers: int, per_s: float, seconds: float) -> None:
    """Send a body, as a process of its own, and print what came of it as JSON; `per_s` 0 is a closed loop."""
    request = request_of(body.read_bytes(), "application/json" if body.suffix == ".json" else "image/jpeg")
    loop = open_loop(port, request, per_s, seconds, SEED) if per_s else closed_loop(port, request, callers, seconds)
    asked = asyncio.run(loop)
    answered = [each for each in asked if each.status == 200]
    ended_s = max(each.sent_s + each.took_s for each in asked)
    found: dict[str, object] = {f"p{share}_ms": percentile(answered, share) for share in (50, 95, 99)}
    found |= {"per_s": len(answered) / ended_s, "cpu_s": time.process_time(), "wall_s": ended_s}
    print(json.dumps({**found, "failed": len(asked) - len(answered)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
