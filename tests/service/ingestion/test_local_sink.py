from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from backbone.errors import DirectoryLocked, SelfTestFailed
from backbone.listing import list_images
from service.embedding import runtime_choice
from service.errors import FingerprintMismatch
from service.ingestion import job
from service.ingestion.job import IndexResult, index_folder
from service.ingestion.local_sink import LocalSink, Once, open_local_sink

if TYPE_CHECKING:
    from backbone import Artifact
    from service.embedding.runtime import Family
    from service.settings import Settings


def counts(result: IndexResult) -> tuple[int, int, int, int]:
    return result.created, result.replaced, result.unchanged, result.refused


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def known_of(sink: LocalSink) -> dict[str, str | None]:
    return {id_: known.label for id_, known in sink.known().items()}


def test_a_local_sink_holds_the_vectors_of_the_artifact(
    folder: Path, make_settings: Callable[..., Settings], tiny_artifact: Artifact
) -> None:
    import torch

    from service.library.library import Library

    settings = make_settings(allow_anonymous=False)
    (folder / "cat" / "broken.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:100])
    with open_local_sink(settings, "c") as sink:
        first = index_folder(list_images(folder), sink)
        assert counts(first) == (6, 0, 0, 1)
        assert known_of(sink)["dog/1.png"] == "dog"
        assert counts(index_folder(list_images(folder), sink)) == (0, 0, 6, 1)
    with Library.open(settings.data) as library:
        point = library.collection("c").point("cat/0.png", with_vector=True)
        assert library.collection("c").picture("cat/0.png") is not None
    expected = tiny_artifact.embed(
        torch.from_numpy(tiny_artifact.preprocess((folder / "cat/0.png").read_bytes())[None])
    )
    assert point.vector is not None
    assert np.abs(point.vector - expected.numpy()[0]).max() < 1e-6


def test_what_is_unchanged_is_not_embedded_again(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.embedding.embedder import Embedder

    with open_local_sink(make_settings(), "c") as sink:
        index_folder(list_images(folder), sink)
        for path in folder.rglob("*.png"):
            touch(path)
        monkeypatch.setattr(Embedder, "embed", None)  # would fail
        assert counts(index_folder(list_images(folder), sink)) == (0, 0, 6, 0)
        assert sink.delete(["cat/0.png", "nobody"]) == 1


def no_runtime(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on let the runtimes of every family refuse to be made; return a list that grows with those asked for."""
    asked: list[str] = []

    def refuse(artifact: Artifact, threads: int) -> Family:
        asked.append(artifact.fingerprint)
        raise SelfTestFailed("it gives other vectors")

    for family in runtime_choice.FAMILIES:
        monkeypatch.setitem(runtime_choice.FAMILIES, family, refuse)
    return asked


def test_over_unchanged_files_neither_the_network_nor_a_decoder_starts(
    folder: Path, make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_local_sink(make_settings(), "c") as sink:
        index_folder(list_images(folder), sink)
    asked = no_runtime(monkeypatch)
    touch(folder / "cat" / "0.png")
    threads = set(threading.enumerate())
    with open_local_sink(make_settings(), "c") as sink:
        assert counts(index_folder(list_images(folder), sink)) == (0, 0, 6, 0)
        started = {thread.name for thread in set(threading.enumerate()) - threads}
    assert asked == []
    assert not {name for name in started if name.startswith(("decode", "batcher"))}


def test_a_network_that_does_not_compute_ends_the_job_at_the_first_image_that_needs_it(
    folder: Path,
    make_settings: Callable[..., Settings],
    png: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with open_local_sink(make_settings(), "c") as sink:
        index_folder(list_images(folder), sink)
    (folder / "cat" / "0-gone.png").symlink_to(folder / "nowhere")
    for index in range(8):
        (folder / "dog" / f"new-{index}.png").write_bytes(png(seed=50 + index))
    report = tmp_path / "refused.jsonl"
    monkeypatch.setattr(job, "CHUNK_IMAGES", 1)  # several are under way, and all of them need it
    with monkeypatch.context() as patched:
        asked = no_runtime(patched)
        with open_local_sink(make_settings(), "c") as sink, pytest.raises(SelfTestFailed, match="other vectors"):
            index_folder(list_images(folder), sink, report=report)
    assert len(asked) == 1
    assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == ["cat/0-gone.png"]
    with open_local_sink(make_settings(), "c") as sink:
        assert counts(index_folder(list_images(folder), sink)) == (8, 0, 6, 1)


def test_a_network_that_does_not_compute_leaves_no_new_collection(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.library.library import Library

    no_runtime(monkeypatch)
    with pytest.raises(SelfTestFailed), open_local_sink(make_settings(), "c"):
        pass
    with Library.open(make_settings().data) as library:
        assert library.collections() == []


def test_the_collection_and_the_directory_are_held(
    make_settings: Callable[..., Settings], other_artifact: Artifact
) -> None:
    settings = make_settings()
    with open_local_sink(settings, "c", keep="none"), pytest.raises(DirectoryLocked), open_local_sink(settings, "c"):
        pass
    with open_local_sink(settings, "c"):
        pass  # what it keeps is as it was
    with pytest.raises(FingerprintMismatch), open_local_sink(make_settings(artifact=other_artifact.path), "c"):
        pass


# ---- what is made once, for all threads

THREADS = 8  # that ask at the same time


def together(once: Once[object]) -> list[object]:
    """Return what each of many threads that ask at the same time gets, or meets."""
    start = threading.Barrier(THREADS)

    def ask(_: int) -> object:
        start.wait()
        try:
            return once.get()
        except OSError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(ask, range(THREADS)))


def test_it_is_made_when_it_is_asked_for_and_once_for_all_threads() -> None:
    made: list[object] = []

    def make() -> object:
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    once = Once(make)
    assert made == []
    assert together(once) == made * THREADS
    assert len(made) == 1


def test_what_kept_it_from_being_made_is_raised_for_every_caller_and_not_tried_again() -> None:
    tries: list[int] = []

    def make() -> object:
        time.sleep(0.05)
        tries.append(1)
        raise OSError("no room")

    once = Once(make)
    assert [str(error) for error in together(once)] == ["no room"] * THREADS
    with pytest.raises(OSError, match="no room"):
        once.get()
    assert tries == [1]
