"""Bodies that a fuzzer damages: multipart forms and JSON, to every route that takes them. Found cases lie in corpus/bodies."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import httpx
import pytest
from faults.figures import FIGURES
from faults.fuzzing import CORPUS, GOOD, Victim, fuzz
from hypothesis import strategies as st
from processes import service_process

from backbone import Artifact

FORM, JSON = "multipart/form-data; boundary=b", "application/json"
C = "/v1/collections/c"


def part(head: str, content: bytes) -> bytes:
    return f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"


POINTS = json.dumps(
    {"points": [{"id": "p", "label": "l", "payload": {"n": [1, {"m": None}]}}], "replace": True}
).encode()
VECTOR = [0.5] * 32
WHOLE: list[tuple[str, str, str, bytes]] = [
    ("POST", "/v1/embed", FORM, part('name="files"; filename="f"', GOOD) * 2 + b"--b--\r\n"),
    (
        "PUT",
        f"{C}/points",
        FORM,
        part('name="points"', POINTS) + part('name="files"; filename="f"', GOOD) + b"--b--\r\n",
    ),
    ("POST", "/v1/embed", JSON, json.dumps({"images": [base64.b64encode(GOOD).decode(), ""]}).encode()),
    ("PUT", f"{C}/points", JSON, json.dumps({"points": [{"id": "q", "vector": VECTOR}], "fingerprint": None}).encode()),
    (
        "POST",
        f"{C}/query",
        JSON,
        json.dumps({"vector": VECTOR, "limit": 3, "filter": {"must": [{"exists": "label"}]}}).encode(),
    ),
    (
        "POST",
        f"{C}/query/batch",
        JSON,
        json.dumps({"queries": [{"id": "good", "exact": True}, {"vector": VECTOR}]}).encode(),
    ),
    ("POST", f"{C}/points/scroll", JSON, b'{"limit": 5, "cursor": null, "with_vector": true}'),
    ("POST", "/v1/embeddings", JSON, json.dumps({"input": [base64.b64encode(GOOD).decode()], "model": None}).encode()),
]
WORDS = [b"--b", b"\r\n\r\n", b'"', b"{", b"[" * 50, b"NaN", b"1e999", b"\\ud800", b"\x00", b"null", b"0," * 500]
WORDS += [b'name="', b"filename=", b":"]


@pytest.fixture(scope="module")
def victim(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("fuzz")
    options = {"allow_anonymous": 1, "decode_workers": 1, "runtime": "openvino", "threads": 1}
    with service_process(tiny_artifact.path, folder / "data", folder / "log", **options) as service:
        url = f"http://127.0.0.1:{service.port}{C}"
        httpx.put(url).raise_for_status()
        httpx.put(f"{url}/points", json={"points": [{"id": "good", "vector": VECTOR}]}).raise_for_status()
        victim = Victim(service)
        yield victim
        victim.close()


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, str, str, bytes]:
    """A request in whose body a few places are overwritten, cut out, doubled, or filled with words that parsers stumble over."""
    method, path, content_type, whole = draw(st.sampled_from(WHOLE))
    body = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(body)))
        again = bytes(body[start : start + 64]) * draw(st.integers(0, 9))
        put = draw(st.one_of(st.binary(max_size=16), st.sampled_from(WORDS), st.just(again)))
        body[start : start + draw(st.integers(0, 32))] = put
    return method, path, content_type, bytes(body)


def test_found_bodies_are_answered(victim: Victim) -> None:
    cases = sorted((CORPUS / "bodies").iterdir())
    assert cases
    for case in cases:
        for method, path, content_type, _ in WHOLE:
            victim.send(case.read_bytes(), content_type, method, path)
        victim.is_as_before()


def test_whatever_a_body_is_changed_to_the_service_answers_and_stays_as_it_was(victim: Victim) -> None:
    def send(request: tuple[str, str, str, bytes]) -> None:
        method, path, content_type, body = request
        victim.send(body, content_type, method, path)

    tried = fuzz(damaged(), send, victim.is_as_before)
    FIGURES.append(f"fuzzed bodies: {tried} answered with 200 or 4xx, good ones as before")
