"""The batch job: a whole list of images into a collection, in bounded memory, and again only for what is new or changed.

A reader (`file_reader`) looks at each file and hands chunks of them to a sink; a few chunks are under way at once, so that files are
read and decoded while the network computes. A chunk is durable when its sink has answered, so a job that was stopped or killed goes
on where it was. Before all that, points whose folder has another path today learn it (`known_sources`); in the end those whose file
is gone may be deleted (`pruning`).
"""

from __future__ import annotations

import errno
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from backbone.decode import DecodeLimits
from backbone.errors import ImageRefused, StorageFailed
from backbone.listing import ImageList
from service.errors import Invalid, OtherSource, SourceUnreachable, TooManyGone
from service.ingestion.file_reader import FileReader
from service.ingestion.incoming import Incoming, PutResult
from service.ingestion.known_sources import renamed_sources
from service.ingestion.pruning import gone_points
from service.ingestion.refusal_report import Refusal, RefusalReport
from service.ingestion.sinks import Sink
from service.ingestion.source_folder import SourceFolder
from service.points import Stored

CHUNK_IMAGES = 32  # one full forward pass
CHUNK_BYTES = 32 * 2**20  # so that a chunk of large photographs is no larger in memory than a request may be
FIRST_REFUSALS = 20  # kept with the figures: a screenful; the report has them all
CHUNK_RENAMED = 1024  # points that learn the new path of their file in one commit: there is nothing to read or to embed
CHUNKS_UNDER_WAY = 3  # one being read and decoded, one computed, one committed


@dataclass
class IndexResult:
    """The figures of a job, so far or in the end."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    refused: int = 0
    other_source: int = 0  # of those refused: their id belongs to the point of another source
    listed_twice: int = 0  # files whose new points are not their first: they have one under another id
    pruned: int = 0
    not_pruned: SourceUnreachable | TooManyGone | None = None  # why nothing was pruned, though it was asked for
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
    prune_many: bool = False,
    id_prefix: str = "",
    replace_sources: bool = False,
    on_chunk: OnChunk = lambda result: None,
    stop: threading.Event | None = None,
    max_image_bytes: int = DecodeLimits.max_bytes,
) -> IndexResult:
    """Bring a collection up to date with a list of images.

    Args:
        listing: what to index; an image's id is its path relative to the list's root, behind the prefix.
        sink: where to.
        report: a JSON lines file that gets a line for each file that was refused; written anew.
        prune: in the end, delete points that were indexed from this source and whose file was looked for and is not there.
        prune_many: also where more than a tenth of them are gone, or a folder that held some is empty.
        id_prefix: what ids begin with, so that folders with the same names go into one collection; pruned is with this prefix alone.
        replace_sources: replace also points that came from other files, or over REST.
        on_chunk: called after each chunk with the figures so far.
        stop: when set, nothing new is begun, what is under way is finished, and nothing is pruned.
        max_image_bytes: a larger file is refused without being read.

    Raises:
        ServiceError, BackboneError: the sink failed as a whole, or the report cannot be written. What was answered is durable.
    """
    stop = stop or threading.Event()
    begun = time.perf_counter()
    result = IndexResult()
    folder = SourceFolder(listing.root)
    with (
        RefusalReport(report, stop) as refusals,
        ThreadPoolExecutor(CHUNKS_UNDER_WAY, thread_name_prefix="index") as pool,
    ):

        def ended(chunks: set[Future[Sequence[PutResult]]]) -> None:
            for chunk in chunks:
                for put in chunk.result():
                    _count(result, put, refusals)
            result.seconds = time.perf_counter() - begun
            on_chunk(result)

        known = _followed(sink, listing, folder, id_prefix)
        result.listed_twice = _listed_twice(listing, known, folder, id_prefix)
        reader = FileReader(folder, known, id_prefix, replace_sources, max_image_bytes)
        under_way: set[Future[Sequence[PutResult]]] = set()
        for chunk in _chunks(listing, reader, result, refusals, stop):
            under_way.add(pool.submit(sink.put, chunk))
            if len(under_way) == CHUNKS_UNDER_WAY:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                ended(done)
        ended(under_way)
    if prune and not stop.is_set():
        try:
            gone = gone_points(listing, known, folder, id_prefix, confirmed=prune_many)
            result.pruned = sink.delete(gone) if gone and not stop.is_set() else 0
        except (SourceUnreachable, TooManyGone) as error:
            result.not_pruned = error  # what was indexed before stays indexed
    result.interrupted = stop.is_set()
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


def _followed(sink: Sink, listing: ImageList, folder: SourceFolder, prefix: str) -> Mapping[str, Stored]:
    """Write the paths that files have today to their points; return the points with them."""
    known = sink.known()
    renamed = renamed_sources(listing, known, folder, prefix)
    items = [Incoming(id_, known[id_].content_hash, source=source) for id_, source in renamed.items()]
    for start in range(0, len(items), CHUNK_RENAMED):
        sink.put(items[start : start + CHUNK_RENAMED])
    return {**known, **{id_: replace(known[id_], source=source) for id_, source in renamed.items()}}


def _listed_twice(listing: ImageList, known: Mapping[str, Stored], folder: SourceFolder, prefix: str) -> int:
    files = {stored.source.path for stored in known.values() if stored.source is not None}
    new = (image.id for image in listing.images if prefix + image.id not in known)
    return sum(folder.path_of(relative) in files for relative in new)


def _chunks(
    listing: ImageList,
    reader: FileReader,
    result: IndexResult,
    refusals: RefusalReport,
    stop: threading.Event,
) -> Iterator[list[Incoming]]:
    chunk: list[Incoming] = []
    size = 0
    for image in listing.images:
        if stop.is_set():
            return
        try:
            item = reader.read(image)
        except (OSError, ImageRefused, Invalid, OtherSource) as error:
            _check_that_it_is_of_the_file(error)
            _refuse(reader.id_of(image), error, result, refusals)
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


def _check_that_it_is_of_the_file(error: Exception) -> None:
    """Raise StorageFailed for what this process lacks: every file after this one would be refused for it."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise StorageFailed(
            f"no file can be read any more ({error.strerror}); give the process more (ulimit -n, ulimit -v), and run it again."
        ) from error


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
    result.other_source += isinstance(error, OtherSource)
    if len(result.first_refusals) < FIRST_REFUSALS:
        result.first_refusals.append(refusal)
