"""S44 through HTTP: the whole service is killed while clients write, and every write that was answered is there."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
from faults.figures import FIGURES, SEED
from faults.library.history import THREADS, content, effect, expected, ids, taken, vectors
from numpy.typing import NDArray
from processes import service_process

from backbone import Artifact
from dinodex import Client
from dinodex.collection import Collection
from dinodex.errors import ClientError

KILLS = 30
LONGEST_S = 3.0  # of writing
SERVED = {"allow_anonymous": 1, "runtime": "torch", "threads": 1}
MORE = 16  # numbers of the artifact's vectors beyond ours


def longer(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(vector, (0, MORE))


def write(points: Collection, thread: int, number: int) -> None:
    """Make a write of the history through HTTP."""
    after = effect(thread, number)
    new = [
        {"id": id_, "vector": longer(vectors(thread, known.content)[i]), "label": known.label, "payload": known.payload}
        for i, (id_, known) in enumerate(after.items())
        if known is not None
    ]
    if new:
        points.put_many(new, replace=True)
    else:
        points.delete(list(after))


def write_until_killed(url: str, thread: int, done: list[int]) -> None:
    with Client(url) as client:
        points = client.collection("c")
        while True:
            try:
                write(points, thread, done[thread])
            except ClientError:
                return
            done[thread] += 1


def check(points: Collection, acknowledged: list[int]) -> list[int]:
    """Compare all that the service holds with what it had answered; return how many writes of each thread took effect."""
    found = {point.id: point for point in points.scroll(with_vector=True)}
    done = [taken(found, thread, count, SEED) for thread, count in enumerate(acknowledged)]
    known = {id_: k for thread, writes in enumerate(done) for id_, k in expected(thread, writes).items()}
    assert found.keys() == known.keys(), f"seed {SEED}: a point is there that nobody sent"
    assert points.count() == len(known)
    for id_, k in known.items():
        vector = longer(content(id_, k))
        assert np.abs(np.array(found[id_].vector) - vector / np.linalg.norm(vector)).max() < 1e-6
    for thread, writes in enumerate(done):
        for id_ in ids(thread, max(0, writes - 1)):
            if id_ in known:
                [hit] = points.query(vector=longer(content(id_, known[id_])), limit=1)
                assert (hit.id, hit.label) == (id_, known[id_].label)
    return done


def test_s44_a_service_killed_at_random_moments_has_every_write_that_it_answered(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    draw, done, answered, unanswered, starts = random.Random(SEED), [0] * THREADS, 0, 0, []
    for killed in range(KILLS + 1):
        began = time.monotonic()
        with (
            service_process(tiny_artifact.path, tmp_path / "data", tmp_path / "log", stop="kill", **SERVED) as service,
            Client(service.url) as client,
        ):
            client.wait_until_ready()
            starts.append(time.monotonic() - began)
            points = client.collection("c")
            points.create()
            there = check(points, done)
            unanswered += sum(there) - sum(done)
            if killed == KILLS:
                break
            before, done = sum(there), there
            writers = [threading.Thread(target=write_until_killed, args=(service.url, t, done)) for t in range(THREADS)]
            for writer in writers:
                writer.start()
            time.sleep(draw.uniform(0, LONGEST_S))
            service.kill()
            for writer in writers:
                writer.join()
            answered += sum(done) - before
    assert answered > KILLS
    FIGURES.append(
        f"S44 over HTTP: {KILLS} SIGKILLs of the whole service, {answered} writes answered: 0 lost, 0 half, 0 phantom;"
        f" {unanswered} unanswered ones wholly there; ready again after {np.median(starts):.1f} s (median),"
        f" {max(starts):.1f} s (longest)"
    )
