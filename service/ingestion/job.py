"""The batch job: a whole list of images into a collection, in bounded memory, and again only for what is new or changed.

A reader looks at each file's size and modification time, then at its content's hash, and hands chunks of files to a sink; a few
chunks are under way at once, so that files are read and decoded while the network computes. A file whose size, time and label are
those of its point is taken for unchanged and not opened: what is written into it with both of them kept is not noticed. A chunk is
durable when its sink has answered, so a job that was stopped or killed goes on where it was.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from backbone.decode import DecodeLimits
from backbone.errors import ImageRefused, TooManyBytes
from backbone.listing import ImageList, ListedImage
from service.errors import Invalid
from service.ingestion.incoming import Incoming, PutResult
from service.ingestion.refusal_report import Refusal, RefusalReport
from service.ingestion.sinks import IndexedFile, Sink
from service.points import Source, check_id, check_label, check_source, hash_image, kept_time

CHUNK_IMAGES = 32  # one full forward pass
CHUNK_BYTES = 32 * 2**20  # so that a chunk of large photographs is no larger in memory than a request may be
FIRST_REFUSALS = 20  # kept with the figures: a screenful; the report has them all
CHUNKS_UNDER_WAY = 3  # one being read and decoded, one computed, one committed


@dataclass
class IndexResult:
    """The figures of a job, so far or in the end."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused: int = 0
    pruned: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    first_refusals: list[Refusal] = field(default_factory=list)  # FIRST_REFUSALS of them at most

    @property
    def done(self) -> int:
        """Return how many files have been dealt with."""
        return self.created + self.replaced + self.unchanged + self.refused

    @property
    def images_per_s(self) -> float:
        """Return files dealt with per second."""
        return self.done / self.seconds if self.seconds else 0.0


OnChunk = Callable[[IndexResult], None]


def index_folder(
    listing: ImageList,
    sink: Sink,
    *,
    report: Path | None = None,
    prune: bool = False,
    on_chunk: OnChunk = lambda result: None,
    stop: threading.Event | None = None,
    max_image_bytes: int = DecodeLimits.max_bytes,
) -> IndexResult:
    """Bring a collection up to date with a list of images.

    Args:
        listing: what to index; an image's id is its path relative to the list's root.
        sink: where to.
        report: a JSON lines file that gets a line for each file that was refused; written anew.
        prune: in the end, delete points that were indexed from under this root and whose file is not listed any more.
        on_chunk: called after each chunk with the figures so far.
        stop: when set, nothing new is begun, what is under way is finished, and nothing is pruned.
        max_image_bytes: a larger file is refused without being read.

    Raises:
        ServiceError, BackboneError: the sink failed as a whole, or the report cannot be written. What was answered is durable.
    """
    stop = stop or threading.Event()
    begun = time.perf_counter()
    result = IndexResult()
    known = sink.known()
    with RefusalReport(report) as refusals, ThreadPoolExecutor(CHUNKS_UNDER_WAY, thread_name_prefix="index") as pool:

        def ended(chunks: set[Future[Sequence[PutResult]]]) -> None:
            for chunk in chunks:
                for put in chunk.result():
                    _count(result, put, refusals)
            result.seconds = time.perf_counter() - begun
            on_chunk(result)

        under_way: set[Future[Sequence[PutResult]]] = set()
        for chunk in _chunks(listing, known, result, refusals, stop, max_image_bytes):
            under_way.add(pool.submit(sink.put, chunk))
            if len(under_way) == CHUNKS_UNDER_WAY:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                ended(done)
        ended(under_way)
    result.interrupted = stop.is_set()
    if prune and not result.interrupted:
        result.pruned = _prune(listing, known, sink)
    result.seconds = time.perf_counter() - begun
    on_chunk(result)
    return result


@contextmanager
def stopping_on_sigterm() -> Iterator[threading.Event]:
    """Give an event that SIGTERM sets, so that a job ends at a whole chunk; to be called in the main thread."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _chunks(
    listing: ImageList,
    known: Mapping[str, IndexedFile],
    result: IndexResult,
    refusals: RefusalReport,
    stop: threading.Event,
    max_image_bytes: int,
) -> Iterator[list[Incoming]]:
    chunk: list[Incoming] = []
    size = 0
    for image in listing.images:
        if stop.is_set():
            return
        try:
            item = _read(image, known.get(image.id), max_image_bytes)
        except (OSError, ImageRefused, Invalid) as error:
            _refuse(image.id, error, result, refusals)
            continue
        if item is None:
            result.unchanged += 1
            continue
        chunk.append(item)
        size += len(item.image or b"")
        if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk and not stop.is_set():
        yield chunk


def _read(image: ListedImage, known: IndexedFile | None, max_image_bytes: int) -> Incoming | None:
    """Return what has to be put for a file, or None where nothing changed: first by size and time, then by content."""
    # Before the bytes are read: if the file is written meanwhile, its time differs on the next run, and it is read again.
    status = image.path.stat()
    if known is not None and known.label == image.label and _same_file(known.source, status):
        return None
    source = Source(str(image.path.absolute()), status.st_size, kept_time(status.st_mtime_ns))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size > max_image_bytes:
        raise TooManyBytes(
            f"the file has {status.st_size:,} bytes and the limit is {max_image_bytes:,}; save a smaller one."
        )
    check_id(image.id)
    check_label(image.label)
    check_source(source)
    data = image.path.read_bytes()
    return Incoming(image.id, hash_image(data), data, label=image.label, source=source)


def _same_file(before: Source, now: os.stat_result) -> bool:
    return (before.size, before.mtime_ns) == (now.st_size, kept_time(now.st_mtime_ns))


def _count(result: IndexResult, put: PutResult, refusals: RefusalReport) -> None:
    if put.error is not None:
        _refuse(put.id, put.error, result, refusals)
    elif put.status == "created":
        result.created += 1
    elif put.status == "replaced":
        result.replaced += 1
    else:
        result.unchanged += 1


def _refuse(id_: str, error: Exception, result: IndexResult, refusals: RefusalReport) -> None:
    refusal = Refusal.of(id_, error)
    refusals.add(refusal)
    result.refused += 1
    if len(result.first_refusals) < FIRST_REFUSALS:
        result.first_refusals.append(refusal)


def _prune(listing: ImageList, known: Mapping[str, IndexedFile], sink: Sink) -> int:
    listed = {image.id for image in listing.images}
    root = listing.root.absolute()
    # Only what came from under this root: points that were indexed from another folder are not ours to delete.
    gone = [id_ for id_, each in known.items() if id_ not in listed and Path(each.source.path).is_relative_to(root)]
    return sink.delete(gone) if gone else 0
