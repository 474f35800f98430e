"""The order in which a request is refused: requests that are wrong in several ways at once, and which of them is told.

Key, rate, stopping, overload, size announced, memory, scope, and time where the body is slow. A key of this service has one request,
so that its second one is refused for the rate. Its decoders are held, so that one image fills the queue, and lets the service end only
when they go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bodies import png
from collection_answers import C
from service_process import Service, running

KEYS = 60  # of each scope; more than there are requests here
SETTINGS = {
    "rate_per_s": 0.001,
    "queue_images": 1,
    "max_request_images": 1,
    "max_body_bytes": 65_536,
    "request_memory_bytes": 4 * 65_536,
    "body_timeout_s": 6,  # all that is asked while a body does not come, on a loaded machine
    "drain_s": 100,
}
IMAGE = "content-type: image/png"
JSON = "content-type: application/json"
CHUNKED = "transfer-encoding: chunked"
LARGE = b"FFFFFFF\r\n"  # the size of a chunk, beyond what a body may have
POINTS = f"PUT {C}/points HTTP/1.1\n{JSON}"


def record(data: Path, write: Iterable[str], read: Iterable[str]) -> Service:
    """Run a service on a directory that has these keys, and return it with what it answered."""
    with running(data, SETTINGS) as s:
        fresh, reader = iter(write), iter(read)
        s.ask("make a collection", "PUT", C, key=next(fresh))
        s.ask(
            "a decoder starts with its first image", "POST", "/v1/embed", png(), next(fresh), content_type="image/png"
        )
        decoders = children(s.process.pid)
        send_all(decoders, signal.SIGSTOP)
        try:
            waiting = s.begin(f"POST /v1/embed HTTP/1.1\n{IMAGE}\ncontent-length: {len(png())}", png(), next(fresh))
            wait_for_metric(s, fresh, "dinodex_queue_images", 1)
            overload(s, fresh, reader)
            memory_and_time(s, fresh, reader)
            s.process.terminate()
            poll(
                lambda: (
                    s.ask("the end of the service, at OpenAI's", "GET", "/v1/models", key=next(fresh)).status == 503
                    or s.recorded.pop() is None
                )
            )
            stopping(s, fresh, reader)
        finally:
            send_all(decoders, signal.SIGCONT)
        s.end("what ran when the service was stopped", waiting)
    return s


def overload(s: Service, fresh: Iterator[str], reader: Iterator[str]) -> None:
    """Ask while there is no room for one more image."""
    everything = f"POST /v1/embed HTTP/1.1\n{IMAGE}\n{CHUNKED}"
    s.raw("key, before overload and size", everything, LARGE, key=None)
    s.raw("wrong key, before overload and size", everything, LARGE, key="wrong")
    s.raw("rate, before overload and size", everything, LARGE, key="write-key")  # its first one
    s.raw("rate, before overload and size", everything, LARGE, key="write-key")
    search = f"POST {C}/query HTTP/1.1\n{IMAGE}\n{CHUNKED}"
    s.raw("overload of a search, before size", search, LARGE, next(fresh))
    declared = f"POST /v1/embed HTTP/1.1\n{IMAGE}\ncontent-length: 999999"
    s.raw("overload, before a declared size", declared, b"", next(fresh))
    s.raw("overload, before time", f"POST /v1/embed HTTP/1.1\n{IMAGE}\ncontent-length: 9", b"", next(fresh))
    delete = f"POST {C}/points/delete HTTP/1.1\n{IMAGE}\n{CHUNKED}"
    s.raw("overload, before scope", delete, LARGE, next(reader))
    put = f"PUT {C}/points/x HTTP/1.1\n{IMAGE}\ncontent-length: {len(png())}"
    s.raw("overload, told by the embedder", put, png(), next(fresh))


def memory_and_time(s: Service, fresh: Iterator[str], reader: Iterator[str]) -> None:
    """Ask while another request holds nearly all the memory, until its body is too late."""
    holding = s.begin(f"{POINTS}\ncontent-length: 60000", b"", next(fresh))
    wait_for_metric(s, fresh, "dinodex_request_memory_bytes", 200_000)
    scroll = f"POST /v1/collections/none/points/scroll HTTP/1.1\n{JSON}\ncontent-length: 10"
    late = s.begin(scroll, b"", next(fresh))
    s.raw("size announced, before memory", f"{POINTS}\n{CHUNKED}", LARGE + b"," * 60_000, next(fresh))
    s.raw("size announced, before scope", f"{POINTS}\n{CHUNKED}", LARGE, next(reader))
    s.raw("memory, before scope", f"{POINTS}\ncontent-length: 30000", b"", next(reader))
    nowhere = f"POST /v1/nothing HTTP/1.1\n{JSON}\ncontent-length: 30000"
    s.raw("memory, before there is no route", nowhere, b"", next(fresh))
    s.raw("memory, before time", f"{POINTS}\ncontent-length: 30000", b"", next(fresh))
    s.raw("declared size, where there is no memory", f"{POINTS}\ncontent-length: 999999", b"", next(fresh))
    s.raw("declared size, or scope", f"{POINTS}\ncontent-length: 999999", b"", next(reader))
    s.raw("scope, before a body that does not come", f"{POINTS}\ncontent-length: 10", b"", next(reader))
    text = f"PUT {C}/points HTTP/1.1\ncontent-type: text/plain\ncontent-length: 10"
    s.raw("another type, before a body that does not come", text, b"", next(fresh))
    s.end("time, where memory is held", holding)
    s.end("time, before there is no such collection", late)
    values = b"[" + b"," * 30_000
    s.raw("memory, of one alone", f"{POINTS}\ncontent-length: {len(values)}", values, next(fresh))
    s.raw("memory, of one alone in chunks", f"{POINTS}\n{CHUNKED}", b"7531\r\n" + values + b"\r\n", next(fresh))


def stopping(s: Service, fresh: Iterator[str], reader: Iterator[str]) -> None:
    """Ask while the service waits for what runs."""
    everything = f"POST /v1/embed HTTP/1.1\n{IMAGE}\n{CHUNKED}"
    s.raw("key, before the end of the service", everything, LARGE, key=None)
    s.raw("rate, before the end of the service", everything, LARGE, key="write-key")
    s.raw("the end of the service, before overload and size", everything, LARGE, next(fresh))
    s.raw("the end of the service, before scope", f"{POINTS}\ncontent-length: 9", b"", next(reader))
    s.ask("health at the end", "GET", "/livez", key=None)
    s.ask("health at the end", "GET", "/readyz", key=None)


def wait_for_metric(s: Service, fresh: Iterator[str], name: str, least: float) -> None:
    """Wait until a metric is so large, with a new key each time."""

    def holds() -> bool:
        text = s.ask("", "GET", "/metrics", key=next(fresh)).body.decode()
        s.recorded.pop()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")) >= least

    poll(holds)


def poll(holds: Callable[[], bool]) -> None:
    """Wait until something holds, looking ever more seldom: there are not many keys."""
    wait_s = 0.05
    while not holds():
        assert wait_s < 30, "it did not come"
        time.sleep(wait_s)
        wait_s *= 1.6


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def send_all(processes: list[int], number: signal.Signals) -> None:
    """Send a signal to all of them."""
    for process in processes:
        os.kill(process, number)
