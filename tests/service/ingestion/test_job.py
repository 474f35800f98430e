from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backbone.errors import StorageFailed
from backbone.listing import list_images
from service.errors import InvalidVector, Saturated
from service.ingestion import job
from service.ingestion.incoming import Incoming, PutResult
from service.ingestion.job import IndexResult, index_folder, stopping_on_sigterm
from service.ingestion.refusal_report import Refusal
from service.points import Stored, check_source

PER_CLASS = 3


class Memory:
    """A sink in a dictionary; refuses what starts with `bad`, and remembers how much it had at once."""

    def __init__(self) -> None:
        self.points: dict[str, Stored] = {}
        self.puts = 0
        self.at_once = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.before_put: Callable[[], None] = lambda: None

    def known(self) -> Mapping[str, Stored]:
        return dict(self.points)

    def put(self, items: Sequence[Incoming]) -> Sequence[PutResult]:
        with self.lock:
            self.puts += 1
            self.at_once += len(items)
            self.most_at_once = max(self.at_once, self.most_at_once)
        self.before_put()
        placed = []
        with self.lock:
            for item in items:
                assert item.image is not None
                assert item.source is not None
                if item.image.startswith(b"bad"):
                    placed.append(PutResult(item.id, error=InvalidVector("it is bad")))
                    continue
                known = self.points.get(item.id)
                same = known is not None and known.content_hash == item.content_hash
                status: Any = "created" if known is None else "unchanged" if same else "replaced"
                assert item.label is None or isinstance(item.label, str)
                self.points[item.id] = Stored(item.content_hash, item.label, item.source)
                placed.append(PutResult(item.id, status))
            self.at_once -= len(items)
        return placed

    def delete(self, ids: Sequence[str]) -> int:
        for id_ in ids:
            del self.points[id_]
        return len(ids)


def counts(result: IndexResult) -> tuple[int, int, int, int]:
    return result.created, result.replaced, result.unchanged, result.refused


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def test_a_folder_is_indexed_with_ids_labels_and_sources(folder: Path) -> None:
    sink = Memory()
    result = index_folder(list_images(folder), sink)
    assert counts(result) == (6, 0, 0, 0)
    assert set(sink.points) == {f"{label}/{index}.png" for label in ("cat", "dog") for index in range(PER_CLASS)}
    known = sink.points["cat/1.png"]
    assert known.label == "cat"
    assert known.source.path == str(folder / "cat" / "1.png")
    assert known.source.size == (folder / "cat" / "1.png").stat().st_size


def test_a_rerun_reads_only_what_is_new_or_changed(
    folder: Path, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Memory()
    index_folder(list_images(folder), sink)
    touch(folder / "cat" / "0.png")  # the same content at another time
    (folder / "cat" / "1.png").write_bytes(png(seed=77) + b"trailing")
    (folder / "dog" / "new.png").write_bytes(png(seed=78))
    read: list[str] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or plain(self))
    result = index_folder(list_images(folder), sink)
    assert counts(result) == (1, 1, 5, 0)
    assert sorted(read) == ["0.png", "1.png", "new.png"]
    read.clear()
    assert counts(index_folder(list_images(folder), sink)) == (0, 0, 7, 0)
    assert read == []


@pytest.mark.parametrize(
    "seconds", [10_500_000_000, 2**63 // 10**9 + 1, -1, -(2**31)], ids=["2302", "2262", "1969", "1901"]
)
def test_u17_a_file_of_any_date_is_indexed_and_its_time_shows_changes(folder: Path, seconds: int) -> None:
    sink, file = Memory(), folder / "cat" / "0.png"
    os.utime(file, ns=(0, seconds * 10**9))
    if file.stat().st_mtime_ns != seconds * 10**9:
        pytest.skip("this file system keeps no such date")
    assert counts(index_folder(list_images(folder), sink)) == (6, 0, 0, 0)
    assert check_source(sink.points["cat/0.png"].source) is not None
    puts = sink.puts
    assert counts(index_folder(list_images(folder), sink)) == (0, 0, 6, 0)
    assert sink.puts == puts  # nothing is read again
    os.utime(file, ns=(0, (seconds + 1) * 10**9))
    assert counts(index_folder(list_images(folder), sink)) == (0, 0, 6, 0)
    assert sink.puts == puts + 1


def test_another_label_is_a_change(folder: Path) -> None:
    sink = Memory()
    index_folder(list_images(folder, labels="none"), sink)
    result = index_folder(list_images(folder), sink)
    assert counts(result) == (0, 0, 6, 0)
    assert sink.points["dog/0.png"].label == "dog"


def test_refused_and_unreadable_files_are_reported_and_the_rest_is_indexed(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    (folder / "cat" / "big.png").write_bytes(b"x" * 20_000)
    (folder / "cat" / "gone.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "cat" / "pipe.png")
    Path(os.fsdecode(bytes(folder / "cat") + b"/\xff.png")).write_bytes(b"x")
    report = tmp_path / "refused.jsonl"
    result = index_folder(list_images(folder), Memory(), report=report, max_image_bytes=19_999)
    assert counts(result) == (6, 0, 0, 5)
    lines = {line["id"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert {id_: line["code"] for id_, line in lines.items()} == {
        "cat/bad.png": "invalid_vector",
        "cat/big.png": "image_too_large",
        "cat/gone.png": "file_unreadable",
        "cat/pipe.png": "file_unreadable",
        "cat/\udcff.png": "invalid_id",
    }
    assert lines["cat/bad.png"]["detail"] == "it is bad"


def test_a_screenful_of_refusals_is_kept_with_the_figures_with_and_without_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(job.FIRST_REFUSALS + 5):
        (folder / f"{index:02d}.png").write_bytes(b"bad%d" % index)
    first = [Refusal(f"{index:02d}.png", "invalid_vector", "it is bad") for index in range(job.FIRST_REFUSALS)]
    for report in (None, tmp_path / "refused.jsonl"):
        result = index_folder(list_images(folder), Memory(), report=report)
        assert result.refused == job.FIRST_REFUSALS + 5
        assert result.first_refusals == first
    assert [Refusal(**json.loads(line)) for line in report.read_text().splitlines()[: job.FIRST_REFUSALS]] == first


def test_a_file_of_the_byte_limit_is_taken(folder: Path) -> None:
    size = max(path.stat().st_size for path in folder.rglob("*.png"))
    assert index_folder(list_images(folder), Memory(), max_image_bytes=size).refused == 0
    assert index_folder(list_images(folder), Memory(), max_image_bytes=size - 1).refused >= 1


def test_a_report_that_cannot_be_written_is_said_before_anything_is_done(folder: Path, tmp_path: Path) -> None:
    sink = Memory()
    with pytest.raises(StorageFailed, match="report"):
        index_folder(list_images(folder), sink, report=tmp_path / "none" / "report.jsonl")
    assert sink.puts == 0


def test_u10_a_report_to_a_pipe_is_written_line_by_line_and_the_job_ends(folder: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    reader, writer = os.pipe()
    assert counts(index_folder(list_images(folder), Memory(), report=Path(f"/dev/fd/{writer}"))) == (6, 0, 0, 1)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:  # ends, since the job holds it no more
        assert [json.loads(line)["id"] for line in lines] == ["cat/bad.png"]


def test_u10_a_report_whose_reader_has_left_ends_the_job_with_a_sentence(folder: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(StorageFailed, match="Broken pipe"):
        index_folder(list_images(folder), Memory(), report=Path(f"/dev/fd/{writer}"))
    os.close(writer)


def test_u10_a_job_that_is_stopped_waits_for_no_reader_of_its_report(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    os.mkfifo(tmp_path / "pipe")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StorageFailed, match="nobody reads it"):
        index_folder(list_images(folder), Memory(), report=tmp_path / "pipe", stop=stop)


def test_u10_a_report_is_written_anew_where_a_link_leads(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"bad")
    (tmp_path / "target").write_text("before " * 1000)
    (tmp_path / "report").symlink_to("target")
    index_folder(list_images(folder), Memory(), report=tmp_path / "report")
    assert json.loads((tmp_path / "target").read_text())["id"] == "cat/bad.png"
    assert (tmp_path / "report").is_symlink()


def test_prune_deletes_what_came_from_this_folder_and_is_gone(folder: Path, tmp_path: Path) -> None:
    sink = Memory()
    index_folder(list_images(folder), sink)
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "x.png").write_bytes(b"another source")
    index_folder(list_images(elsewhere), sink)
    (folder / "cat" / "0.png").unlink()
    assert index_folder(list_images(folder), sink).pruned == 0
    assert index_folder(list_images(folder), sink, prune=True).pruned == 1
    assert "cat/0.png" not in sink.points
    assert "x.png" in sink.points


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_u14_what_the_process_lacks_is_no_fault_of_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: Path) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageFailed, match="no file can be read any more"):
        index_folder(list_images(folder), Memory())


def test_memory_is_bounded_by_the_chunks_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(b"x" * 100)
    monkeypatch.setattr(job, "CHUNK_IMAGES", 4)
    sink = Memory()
    assert index_folder(list_images(tmp_path), sink).created == 40
    assert sink.puts == 10
    assert sink.most_at_once <= 4 * job.CHUNKS_UNDER_WAY
    monkeypatch.setattr(job, "CHUNK_BYTES", 200)
    sink = Memory()
    index_folder(list_images(tmp_path), sink)
    assert sink.puts == 20


def test_a_stopped_job_finishes_what_is_under_way_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(40):
        (tmp_path / f"{index:02d}.png").write_bytes(b"x%d" % index)
    monkeypatch.setattr(job, "CHUNK_IMAGES", 4)
    sink, stop = Memory(), threading.Event()
    sink.before_put = stop.set
    result = index_folder(list_images(tmp_path), sink, stop=stop, prune=True)
    assert result.interrupted
    assert 4 <= len(sink.points) == result.created <= 4 * (job.CHUNKS_UNDER_WAY + 1)
    again = index_folder(list_images(tmp_path), sink)
    assert again.unchanged == result.created
    assert again.created == 40 - result.created
    assert not again.interrupted


def test_sigterm_sets_the_event_and_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_sigterm() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_sink_that_fails_as_a_whole_ends_the_job(folder: Path) -> None:
    sink = Memory()

    def fail() -> None:
        raise Saturated("no room")

    sink.before_put = fail
    with pytest.raises(Saturated):
        index_folder(list_images(folder), sink)


def test_the_figures_after_each_chunk_count_up_to_every_file(folder: Path) -> None:
    seen: list[int] = []
    result = index_folder(list_images(folder), Memory(), on_chunk=lambda so_far: seen.append(so_far.done))
    assert seen == sorted(seen)
    assert seen[-1] == result.done == 6
    assert result.images_per_s > 0
