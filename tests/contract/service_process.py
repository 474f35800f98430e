"""A service process to be recorded: `dinodex serve`, asked over loopback; its answers without what changes by itself."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WAIT_S = 120.0  # for whatever must come, on a loaded machine
ARTIFACT = Path(__file__).with_name("artifact")  # a ViT of one narrow block with random weights

_COMMON = {
    "port": 0,
    "api_key": "write-key",
    "runtime": "torch",
    "precision": "fp32",
    "threads": 1,
    "decode_workers": 1,
    # nothing is too late because the machine is busy
    **dict.fromkeys(("header_timeout_s", "body_timeout_s", "decode_timeout_s", "embed_timeout_s", "queue_wait_s"), 100),
}

# What differs from run to run, and from machine to machine in the last bits.
_CHANGING: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r'("created_at":)[\d.]+'), r"\1<time>"),
    (
        re.compile(r"(?<![\w.-])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])"),
        lambda found: f"{round(float(found[0]), 3) + 0.0:.3f}",
    ),
    (re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])"), "<id>"),
    (re.compile(r"\bdinodex_[\w-]{43}(?![\w-])"), "<key>"),
)
_USUAL = [  # of every answer, in this order
    ("x-request-id", "contract"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
]
_DROPPED = {"date", "content-length"}  # the length goes with the digits of the numbers in the body


def settled(text: str) -> str:
    """Return a text without what changes by itself: times, ids, and more than three decimals."""
    for pattern, put in _CHANGING:
        text = pattern.sub(put, text)
    return text


@dataclass
class Reply:
    """What a service answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - as JSON is
        """Return the body as JSON."""
        return json.loads(self.body)

    def text(self) -> str:
        """Return it as it is recorded."""
        usual = [header for header in self.headers if header in _USUAL]
        lines = [str(self.status) + (" usual headers" if usual == _USUAL else f" of the usual headers {usual}")]
        for name, value in self.headers:
            if name == "server-timing":
                value = re.sub(r"dur=[\d.]+", "dur=<ms>", value)
            elif name == "retry-after" and int(value) > 900:
                value = "<more than 900>"
            if name not in _DROPPED and (name, value) not in _USUAL:
                lines.append(settled(f"{name}: {value}"))
        kind = dict(self.headers).get("content-type", "")
        if kind.startswith(("application/x-npy", "image/")):
            lines.append(f"<{self.body[:6]!r}, {len(self.body) if 'npy' in kind else 'some'} bytes>")
        else:
            lines.append(re.sub(r'("retry_after_s":)\d{3,}', r"\1<more than 900>", settled(self.body.decode())))
        return "\n".join(lines)


@dataclass
class Service:
    """A running service, what it logged, and what was recorded of its answers."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    recorded: list[str] = field(default_factory=list)

    def ask(
        self,
        what: str,
        method: str,
        path: str,
        body: object = None,
        key: str | None = "write-key",
        **headers: str,
    ) -> Reply:
        """Send a request in a connection of its own, and record the answer; a `body` that is no bytes is sent as JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given = {"content-type": "application/json", **given}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        given.setdefault("x-request-id", "contract")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in given.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        reply = _read(connection.getresponse())
        connection.close()
        self.record(f"{what}: {method} {settled(path[:200])}", reply)
        return reply

    def record(self, what: str, reply: Reply) -> None:
        """Keep an answer under a heading."""
        self.recorded.append(f"### {what}\n{reply.text()}\n")

    def begin(self, head: str, body: bytes = b"", key: str | None = "write-key") -> socket.socket:
        """Send a request, or a part of one, as it is written here; its answer is for `end`."""
        said = [] if key is None else [f"authorization: Bearer {key}"]
        lines = [head.splitlines()[0], "host: x", "x-request-id: contract", *said, *head.splitlines()[1:]]
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    def end(self, what: str, connection: socket.socket) -> None:
        """Wait for the answer and record it."""
        response = http.client.HTTPResponse(connection)
        response.begin()
        self.record(what, _read(response))
        connection.close()

    def raw(self, what: str, head: str, body: bytes = b"", key: str | None = "write-key") -> None:
        """Send a request as it is written here, and record the answer."""
        self.end(what, self.begin(head, body, key))

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines of its log."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def _read(response: http.client.HTTPResponse) -> Reply:
    return Reply(response.status, [(n.lower(), v) for n, v in response.getheaders()], response.read())


@contextmanager
def running(data: Path, settings: Mapping[str, object]) -> Iterator[Service]:
    """Run a service on a data directory, with these settings and no others; in the end it must stop with 0.

    All that it says is on standard error.
    """
    log, output = data.with_suffix(".log"), data.with_suffix(".out")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DINODEX_")}
    given = {**_COMMON, "artifact": ARTIFACT, "data": data, **settings}
    environment |= {f"DINODEX_{name.upper()}": str(value) for name, value in given.items()}
    with log.open("wb") as errors, output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "dinodex", "serve"], env=environment, stdout=out, stderr=errors
        )
    try:
        found = None
        wait_until(lambda: process.poll() is not None or b"serving on" in log.read_bytes())
        found = re.search(r"^serving on http://127.0.0.1:(\d+)$", log.read_text(), re.MULTILINE)
        assert found is not None, log.read_text()
        yield Service(process, int(found[1]), log)
        process.terminate()
        assert process.wait(WAIT_S) == 0, log.read_text()[-2000:]
        assert output.read_bytes() == b""
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def wait_until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
