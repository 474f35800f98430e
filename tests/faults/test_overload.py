"""S40, S42, S43, S45: five times more than the service can do, the largest of everything at once, no more descriptors, and SIGTERM."""

from __future__ import annotations

import asyncio
import io
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from cgroups import MemoryGroup, NoMemoryGroup, memory_group
from faults.figures import FIGURES, SEED
from pictures import encoded, picture
from PIL import Image
from processes import MiB, ServiceProcess, service_process
from serving_load import Asked, Caller, closed_loop, open_loop, percentile

from backbone import Artifact, Preprocess, build, named
from backbone.artifact_writer import write_artifact
from backbone.machine import usable_cores
from dinodex import Client
from dinodex.errors import RequestRefused, ServiceUnreachable

OVERLOAD_S, SEARCHES_S, TIMES = 60.0, 20.0, 5
DEADLINE_S = 30.0
LEAST_OF_SEARCHES = 0.5  # of the peak: a search costs little, so that refusing takes a good part of the rest
PHOTO = encoded(picture(500, 375), "JPEG", quality=90)
EMBED = (
    b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(PHOTO) + PHOTO
)


@pytest.fixture(scope="module")
def small_vit(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network of the size that is served: ViT-S/16 at 224 pixels, with random weights."""
    torch.manual_seed(0)
    return write_artifact(
        tmp_path_factory.mktemp("vit") / "artifact",
        build(named("vit_small_patch16", 224)),
        Preprocess.for_image_size(224),
        licence="CC0-1.0",
        lineage="random weights",
        training={},
    )


async def overloaded(port: int, per_s: float, as_before_s: float) -> tuple[list[Asked], float]:
    """Ask too much for a minute; return what came of it, and after how many seconds one more caller is answered as before."""
    load = asyncio.create_task(open_loop(port, EMBED, per_s, OVERLOAD_S, SEED))
    await asyncio.sleep(OVERLOAD_S)
    ended, another = time.monotonic(), Caller(port, EMBED)
    while True:
        one = await another.ask(ended, time.monotonic() - ended)
        if one.status == 200 and one.took_s < as_before_s:
            another.close()
            return await load, time.monotonic() - ended
        await asyncio.sleep(0.1)


def test_s40_at_five_times_its_capacity_the_service_does_what_it_can_and_refuses_the_rest_at_once(
    small_vit: Artifact, tmp_path: Path
) -> None:
    options = {"allow_anonymous": 1, "embed_timeout_s": DEADLINE_S}
    with service_process(small_vit.path, tmp_path / "data", tmp_path / "log", **options) as service:
        asyncio.run(closed_loop(service.port, EMBED, callers=16, seconds=5))  # until it is warm
        peak, best = peak_of(service, EMBED, callers=32, seconds=20)
        begun_cpu_s = time.process_time()
        asked, recovered_s = asyncio.run(overloaded(service.port, TIMES * peak, as_before_s=2 * 32 / peak))
        asked_cpu_s = time.process_time() - begun_cpu_s
        own_ms = [line["ms"] for line in service.lines() if line.get("status") == 503]
    taken, refused = ([each for each in asked if each.status == status] for status in (200, 503))
    answered = answered_per_s(taken, OVERLOAD_S)
    goodput = less_generator(answered, asked_cpu_s / OVERLOAD_S) / best
    FIGURES.append(
        f"S40 {TIMES} x {peak:.1f} images/s for {OVERLOAD_S:.0f} s: goodput {goodput:.2f} of the peak ({answered / peak:.2f} before "
        f"the generator's {asked_cpu_s:.1f} s of computing are taken off); accepted p50 / p99 "
        f"{percentile(taken, 50) / 1000:.1f} / {percentile(taken, 99) / 1000:.1f} s; {len(refused):,} refused, p50 / p99 "
        f"{percentile(refused, 50):.1f} / {percentile(refused, 99):.1f} ms with the generator's own waiting, in the service "
        f"{np.percentile(own_ms, 50):.1f} / {np.percentile(own_ms, 99):.1f} ms, "
        f"{np.mean(np.array(own_ms) < 5):.1%} under 5; as fast as before {recovered_s:.1f} s after its end"
    )
    assert len(taken) + len(refused) == len(asked)
    assert all(each.retry_after for each in refused)
    assert percentile(taken, 99) <= DEADLINE_S * 1000
    assert goodput >= 0.9
    assert np.percentile(own_ms, 95) < 5  # what is slower waited for a core, which the generator takes, too
    assert recovered_s < 5


def test_s40_a_flood_of_searches_is_refused_at_once_and_holds_up_neither_writes_nor_probes(
    small_vit: Artifact, tmp_path: Path
) -> None:
    slowest = {"write": 0.0, "probe": 0.0}
    with service_process(small_vit.path, tmp_path / "data", tmp_path / "log", allow_anonymous=1) as service:
        url = f"http://127.0.0.1:{service.port}"
        search = searchable(url)
        peak, best = peak_of(service, search, callers=64, seconds=10)
        done = threading.Event()

        def watch() -> None:
            with Client(url) as client, httpx.Client(timeout=60) as http:
                while not done.wait(0.1):
                    begun = time.monotonic()
                    assert client.collection("c").put("written", vector=[1.0] * 384, label=str(begun)).error is None
                    written = time.monotonic()
                    http.get(f"{url}/livez").raise_for_status()
                    slowest["write"] = max(slowest["write"], written - begun)
                    slowest["probe"] = max(slowest["probe"], time.monotonic() - written)

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun_cpu_s = time.process_time()
        asked = asyncio.run(open_loop(service.port, search, TIMES * peak, SEARCHES_S, SEED))
        asked_cpu_s = time.process_time() - begun_cpu_s
        done.set()
        watcher.join(60)
        own_ms = [line["ms"] for line in service.lines() if line.get("status") == 503]
    taken, refused = ([each for each in asked if each.status == status] for status in (200, 503))
    goodput = less_generator(answered_per_s(taken, SEARCHES_S), asked_cpu_s / SEARCHES_S) / best
    FIGURES.append(
        f"S40 {TIMES} x {peak:.1f} requests/s for {SEARCHES_S:.0f} s, each of 10 exact searches among 20,000 points: goodput "
        f"{goodput:.2f} of the peak; accepted p50 / p99 {percentile(taken, 50) / 1000:.1f} / "
        f"{percentile(taken, 99) / 1000:.1f} s; {len(refused):,} refused, in the service p50 / p99 "
        f"{np.percentile(own_ms, 50):.1f} / {np.percentile(own_ms, 99):.1f} ms; slowest write {slowest['write']:.2f} s, "
        f"slowest probe {slowest['probe']:.2f} s"
    )
    assert len(taken) + len(refused) == len(asked)
    assert all(each.retry_after for each in refused)
    assert percentile(taken, 99) <= DEADLINE_S * 1000
    assert np.percentile(own_ms, 95) < 5
    assert goodput >= LEAST_OF_SEARCHES
    assert max(slowest.values()) < 5


def peak_of(service: ServiceProcess, request: bytes, callers: int, seconds: float) -> tuple[float, float]:
    """Return the requests a second that are answered where nobody asks too much, as they are and had the generator cost nothing."""
    begun_cpu_s = time.process_time()
    alone = asyncio.run(closed_loop(service.port, request, callers, seconds))
    cpu_s, took_s = time.process_time() - begun_cpu_s, max(each.sent_s + each.took_s for each in alone)
    assert {each.status for each in alone} == {200}
    return len(alone) / took_s, less_generator(len(alone) / took_s, cpu_s / took_s)


def answered_per_s(taken: Sequence[Asked], seconds: float) -> float:
    """Return the answers a second that came while the load lasted."""
    return sum(each.sent_s + each.took_s <= seconds for each in taken) / seconds


def less_generator(per_s: float, of_a_core: float) -> float:
    """Return a rate as it were, had the generator, which computes on the same cores, not taken this share of one."""
    return per_s / (1 - of_a_core / usable_cores())


def searchable(url: str) -> bytes:
    """Make a collection of 20,000 points, and return a request of ten searches that compare each of them."""
    vectors = np.random.default_rng(0).normal(size=(20_000, 384)).astype(np.float32)
    with Client(url) as client:
        httpx.put(f"{url}/v1/collections/c").raise_for_status()
        for start in range(0, len(vectors), 500):
            points = [{"id": str(i), "vector": vectors[i]} for i in range(start, start + 500)]
            client.collection("c").put_many(points)
    body = json.dumps({"queries": [{"id": str(i), "limit": 10, "exact": True} for i in range(10)]}).encode()
    head = b"POST /v1/collections/c/query/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def largest() -> dict[str, tuple[str, dict[str, str], bytes]]:
    """Return requests that take as much as any may: images of 50 megapixels, and bodies of 64 MiB of each kind."""
    flat, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    Image.new("RGBA", (7_070, 7_070), (1, 2, 3, 4)).save(flat, "PNG", compress_level=9)
    photo = encoded(Image.fromarray(np.tile(noise, (14, 14, 1))), "JPEG", quality=60, progressive=True)
    assert len(photo) < 20 * MiB
    numbers = b'{"vector":[' + b"0.1," * (16 * MiB - 10) + b"0]}"
    objects = b'{"vector":[' + b"{}," * (21 * MiB) + b"0]}"
    images = json.dumps({"images": ["A" * (60 * MiB)]}).encode()
    npy = io.BytesIO()
    np.save(npy, np.ones((32_000, 384), np.float32))
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="f"\r\n\r\n'
    form = (head + photo + b"\r\n") * (60 * MiB // len(photo)) + b"--b--\r\n"
    as_json = {"content-type": "application/json"}
    return {
        "transparent PNG": ("/v1/embed", {"content-type": "image/png"}, flat.getvalue()),
        "progressive JPEG": ("/v1/embed", {"content-type": "image/jpeg"}, photo),
        "picture": ("/v1/visualize?kind=attention", {"content-type": "image/jpeg"}, photo),
        "multipart": ("/v1/embed?output=patches", {"content-type": "multipart/form-data; boundary=b"}, form),
        "base64": ("/v1/embed", as_json, images),
        "numbers": ("/v1/collections/c/query", as_json, numbers),
        "objects": ("/v1/collections/c/query", as_json, objects),
        "matrix": ("/v1/collections/c/query", {"content-type": "application/x-npy"}, npy.getvalue()),
    }


@pytest.fixture
def group() -> Iterator[MemoryGroup | None]:
    """A group whose memory can be limited; where there can be none, None, and the figures say why."""
    try:
        with memory_group() as found:
            yield found
    except NoMemoryGroup as error:
        FIGURES.append(f"S42 no limit of the kernel's held the service: {error}")
        yield None


def test_s42_the_kernel_kills_and_counts_what_takes_more_than_its_group_may(group: MemoryGroup | None) -> None:
    """What the next test sees nothing of."""
    if group is None:
        return  # the figures say so
    group.limit(64 * MiB)
    for size, status in ((8 * MiB, 0), (128 * MiB, -signal.SIGKILL)):
        process = subprocess.run([*group.command, sys.executable, "-c", f"b'x' * {size}"], check=False)
        assert process.returncode == status
    assert group.kills() == 1


def test_s42_the_largest_of_everything_at_once_stays_under_the_ceiling_that_the_service_told(
    small_vit: Artifact, tmp_path: Path, group: MemoryGroup | None
) -> None:
    callers, peak, done = 24, 0, threading.Event()
    statuses: dict[str, set[int]] = {}

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, service.resident_bytes())

    def send(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=120) as client:
            for turn in range(6):
                name = list(requests)[(number + turn) % len(requests)]
                path, headers, body = requests[name]
                statuses.setdefault(name, set()).add(client.post(path, headers=headers, content=body).status_code)

    requests = largest()
    options = {"allow_anonymous": 1, "body_timeout_s": 120, "embed_timeout_s": 120}
    inside = () if group is None else group.command
    with service_process(small_vit.path, tmp_path / "data", tmp_path / "log", inside, **options) as service:
        httpx.put(f"http://127.0.0.1:{service.port}/v1/collections/c").raise_for_status()
        [ready] = [line for line in service.lines() if line["event"] == "ready"]
        ceiling = ready["memory_ceiling_bytes"]
        if group is not None:
            group.limit(ceiling)
        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(send, range(callers)))
        done.set()
        watcher.join()
        assert (
            httpx.post(
                f"http://127.0.0.1:{service.port}/v1/embed",
                content=PHOTO,
                headers={"content-type": "image/jpeg"},
                timeout=60,
            ).status_code
            == 200
        )
        if group is not None:
            FIGURES.append(
                f"S42 held to the ceiling by the kernel: {group.peak_bytes() / MiB:,.0f} MiB with its own share and page cache "
                f"({group.cache_bytes() / MiB:,.0f} MiB in the end), {group.kills()} processes killed"
            )
            assert group.kills() == 0
    FIGURES.append(
        f"S42 {callers} callers, each with the largest: peak {peak / MiB:,.0f} of {ceiling / MiB:,.0f} MiB; answers {statuses}"
    )
    assert peak <= ceiling
    assert {status for found in statuses.values() for status in found} <= {200, 408, 413, 415, 422, 503}
    for name in ("transparent PNG", "progressive JPEG"):
        assert 200 in statuses[name]


def descriptors(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def threads(service: ServiceProcess) -> int:
    return len(list(Path(f"/proc/{service.process.pid}/task").iterdir()))


def test_s43_without_descriptors_the_service_waits_and_then_goes_on(tiny_artifact: Artifact, tmp_path: Path) -> None:
    options = {"allow_anonymous": 1, "keep_alive_s": 2, "header_timeout_s": 3}
    with service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", **options) as service:
        url = f"http://127.0.0.1:{service.port}"
        assert httpx.post(f"{url}/v1/embed", content=PHOTO, headers={"content-type": "image/jpeg"}).status_code == 200
        open_before, threads_before = descriptors(service), threads(service)
        limit = open_before + 20
        _, hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (limit, hard))
        idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(100)]
        time.sleep(1)
        assert service.process.poll() is None
        assert descriptors(service) <= limit
        for each in idle:
            each.close()
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = httpx.post(f"{url}/v1/embed", content=PHOTO, headers={"content-type": "image/jpeg"}, timeout=5)
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "it does not recover"
        assert answer.status_code == 200
        for _ in range(50):
            assert httpx.get(f"{url}/livez").status_code == 200
        time.sleep(4)  # until idle connections are closed
        assert descriptors(service) <= open_before + 2
        assert threads(service) <= threads_before + 8  # the pool that answers blocking requests


def test_s45_sigterm_under_load_ends_what_runs_and_loses_nothing(tiny_artifact: Artifact, tmp_path: Path) -> None:
    answered: list[str] = []
    refused: list[int] = []
    lock = threading.Lock()
    with service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", allow_anonymous=1) as service:
        url = f"http://127.0.0.1:{service.port}"
        httpx.put(f"{url}/v1/collections/c").raise_for_status()

        def write(number: int) -> None:
            with Client(url) as client:
                for turn in range(10_000):
                    point = f"{number}/{turn}"
                    try:
                        client.collection("c").put(point, image=encoded(picture(seed=turn % 7)))
                    except RequestRefused as error:
                        with lock:
                            refused.append(error.status)
                        return
                    except ServiceUnreachable:  # its port is closed already
                        return
                    with lock:
                        answered.append(point)

        with ThreadPoolExecutor(8) as pool:
            writers = [pool.submit(write, number) for number in range(8)]
            while len(answered) < 200:
                time.sleep(0.01)
            begun = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(40) == 0
            took_s = time.monotonic() - begun
            for writer in writers:
                writer.result(60)
    assert took_s < 31
    assert set(refused) <= {503}
    with (
        service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log2", allow_anonymous=1) as service,
        Client(f"http://127.0.0.1:{service.port}") as client,
    ):
        there = {point.id for point in client.collection("c").scroll()}
    FIGURES.append(
        f"S45 SIGTERM among {len(answered)} answered puts of 8 writers: exit 0 after {took_s:.1f} s, all of them there"
    )
    assert set(answered) <= there
