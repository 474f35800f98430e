from __future__ import annotations

import asyncio
import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import encoded, picture
from PIL import Image

from backbone.decode import SERVICE_FORMATS, DecodeLimits
from backbone.errors import CorruptImage, EmptyImage, TooManyBytes, UnsupportedImageType
from service.embedding.admission import INTERACTIVE_IMAGES, AdmissionLimits
from service.embedding.embedder import Embedded, Embedder
from service.embedding.runtime_torch import TorchRuntime
from service.errors import DeadlinePassed, EmbedderRestarted, EmbeddingNotFinite, InferenceFailed, Saturated, Stopping
from service.metrics import Metrics

if TYPE_CHECKING:
    from backbone import Artifact

Floats = NDArray[np.float32]
TIMEOUT_S = 20.0


@pytest.fixture
def make_embedder(tiny_artifact: Artifact) -> Iterator[Callable[..., Embedder]]:
    made: list[Embedder] = []

    def make(run: object = None, queue_images: int = 8, **given: float) -> Embedder:
        waits = (given.pop("embed_timeout_s", TIMEOUT_S), given.pop("queue_wait_s", TIMEOUT_S))
        queue = AdmissionLimits(queue_images, int(given.pop("queue_bytes", 10**8)), *waits)
        options = {"decode_workers": 1, "decode_timeout_s": 10.0, "batch_images": 4, "thumbnail_px": 64, **given}
        limits = DecodeLimits(formats=SERVICE_FORMATS)
        run = run or TorchRuntime(tiny_artifact, "fp32", 1).run
        made.append(
            Embedder(
                tiny_artifact,
                run,
                streams=1,
                limits=limits,
                batch_wait_s=0.0,
                queue=queue,
                metrics=Metrics(),
                **options,
            )
        )  # type: ignore[arg-type]
        return made[-1]

    yield make
    for embedder in made:
        embedder.close()


def assume_throughput(embedder: Embedder, seconds_per_image: float) -> None:
    """Have the embedder believe that its passes took so long."""
    now = time.monotonic()
    embedder._pipeline._batcher.throughput.record(1000, now, now + 1000 * seconds_per_image)


class Gate:
    """The tiny network's shape, held until it is let go."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.entered = threading.Event()
        self.open = threading.Event()
        self.images = 0
        self.patches: list[bool] = []  # whether each pass was asked for them

    def __call__(self, pixels: Floats, patches: bool, /) -> tuple[Floats, Floats]:
        self.entered.set()
        self.patches.append(patches)
        assert self.open.wait(TIMEOUT_S)
        self.images += len(pixels)
        return np.full((len(pixels), 32), self.value, np.float32), np.ones((len(pixels), 16, 32), np.float32)


def test_a_vector_is_what_the_artifact_itself_computes(
    make_embedder: Callable[..., Embedder], tiny_artifact: Artifact, png: Callable[..., bytes]
) -> None:
    import torch

    images = [png(seed=seed) for seed in range(6)]
    answers = make_embedder().embed(images)
    x = torch.from_numpy(np.stack([tiny_artifact.preprocess(image) for image in images]))
    expected = tiny_artifact.embed(x).numpy()
    for answer, row in zip(answers, expected, strict=True):
        assert isinstance(answer, Embedded)
        assert np.abs(answer.vector - row).max() < 1e-6
        assert answer.vector.dtype == np.float32
        assert abs(np.linalg.norm(answer.vector) - 1) < 1e-6


@pytest.mark.parametrize(
    ("output", "shape"), [("cls", (32,)), ("mean", (32,)), ("cls+mean", (64,)), ("patches", (16, 32))]
)
def test_each_output_has_its_shape(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], output: str, shape: tuple[int, ...]
) -> None:
    [answer] = make_embedder().embed([png()], output)
    assert isinstance(answer, Embedded)
    assert answer.vector.shape == shape


@pytest.mark.parametrize("position", range(4))
def test_s17_a_corrupt_image_fails_alone_in_its_batch(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], position: int
) -> None:
    embedder = make_embedder()
    images = [png(seed=seed) for seed in range(4)]
    alone = [embedder.embed([image])[0] for image in images]
    images[position] = images[position][:200]
    for index, answer in enumerate(embedder.embed(images)):
        if index == position:
            assert isinstance(answer, CorruptImage)
        else:
            reference = alone[index]
            assert isinstance(answer, Embedded)
            assert isinstance(reference, Embedded)
            assert np.abs(answer.vector - reference.vector).max() < 1e-6


def test_s17_of_32_images_the_corrupt_one_fails_alone_wherever_it_stands(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    """The others to 1e-6, as everywhere (B1): products of matrices sum in another order in a batch of another size."""
    embedder = make_embedder(queue_images=32, batch_images=32)
    images = [png(seed=seed) for seed in range(32)]
    alone = np.stack([answer.vector for image in images for answer in embedder.embed([image])])  # type: ignore[union-attr]
    for position in range(32):
        corrupt = images[position][:200]
        answers = embedder.embed([*images[:position], corrupt, *images[position + 1 :]])
        assert isinstance(answers.pop(position), CorruptImage)
        assert all(isinstance(answer, Embedded) for answer in answers)
        vectors = np.stack([answer.vector for answer in answers if isinstance(answer, Embedded)])
        assert np.abs(vectors - np.delete(alone, position, axis=0)).max() < 1e-6


def test_refusals_keep_their_kind_and_good_images_follow(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    embedder = make_embedder()
    gif = encoded(picture(), "GIF")
    kinds = [type(answer) for answer in embedder.embed([b"", b"<svg/>" * 20, gif, png()])]
    assert kinds == [EmptyImage, UnsupportedImageType, UnsupportedImageType, Embedded]
    assert all(isinstance(answer, Embedded) for answer in embedder.embed([png()] * 8))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_s16_what_is_not_finite_is_refused(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], value: float
) -> None:
    gate = Gate(value)
    gate.open.set()
    [answer] = make_embedder(gate).embed([png()])
    assert isinstance(answer, EmbeddingNotFinite)


@pytest.mark.parametrize(
    ("output", "patches"), [(None, False), ("cls", False), ("mean", True), ("cls+mean", True), ("patches", True)]
)
def test_the_network_computes_patch_tokens_only_where_the_output_reads_them(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], output: str | None, patches: bool
) -> None:
    gate = Gate()
    gate.open.set()
    [answer] = make_embedder(gate).embed([png()], output)
    assert isinstance(answer, Embedded)
    assert gate.patches == [patches]


def test_a_network_that_fails_is_the_image_s_error_and_not_the_end(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    broken = True

    def run(pixels: Floats, patches: bool, /) -> tuple[Floats, Floats]:
        if broken:
            raise RuntimeError("a bad day")
        return np.ones((len(pixels), 32), np.float32), np.ones((len(pixels), 16, 32), np.float32)

    embedder = make_embedder(run)
    assert [type(answer) for answer in embedder.embed([png(), png()])] == [InferenceFailed] * 2
    assert not asyncio.run(embedder.ready())
    broken = False
    assert asyncio.run(embedder.ready())


def test_the_queue_takes_its_limit_and_refuses_one_more(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, queue_images=8)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.extend(embedder.embed([png()] * 8)))
    waiting.start()
    assert gate.entered.wait(TIMEOUT_S)
    assert not asyncio.run(embedder.ready())
    with pytest.raises(Saturated):
        embedder.embed([png()])
    gate.open.set()
    waiting.join(TIMEOUT_S)
    assert len(answers) == 8
    assert asyncio.run(embedder.ready())
    assert len(embedder.embed([png()] * 8)) == 8  # every place is free again
    with pytest.raises(Saturated):
        embedder.embed([png()] * 9)


def test_the_queue_takes_so_many_bytes_and_refuses_one_more(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    image = png()
    embedder = make_embedder(queue_bytes=3 * len(image))
    assert len(embedder.embed([image] * 3)) == 3
    with pytest.raises(Saturated, match="bytes"):
        embedder.embed([image] * 4)
    assert len(embedder.embed([image] * 3)) == 3


def test_what_would_take_longer_than_a_request_may_is_refused_at_once(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    gate.open.set()
    embedder = make_embedder(gate, embed_timeout_s=5.0)
    embedder.embed([png()])
    assume_throughput(embedder, seconds_per_image=4)
    gate.open.clear()
    gate.entered.clear()
    waiting = threading.Thread(target=lambda: embedder.embed([png()]))
    waiting.start()  # alone, it is tried, however long it may take
    assert gate.entered.wait(TIMEOUT_S)
    begun = time.monotonic()
    with pytest.raises(Saturated, match="takes 8 s"):
        embedder.embed([png()])
    assert time.monotonic() - begun < 0.1
    gate.open.set()
    waiting.join(TIMEOUT_S)


def test_s40_few_images_wait_a_few_seconds_at_most_and_many_until_their_deadline(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    gate.open.set()
    embedder = make_embedder(gate, queue_images=100, embed_timeout_s=40.0, queue_wait_s=3.0, batch_images=4)
    embedder.embed([png()])
    assume_throughput(embedder, seconds_per_image=0.71)
    gate.open.clear()
    waiting = [threading.Thread(target=lambda n=n: embedder.embed([png()] * n)) for n in (8, 1, 3)]
    for thread in waiting:
        thread.start()
    until = time.monotonic() + TIMEOUT_S
    while embedder.stats().queued_images < 12:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(Saturated, match="takes 4 s"):  # five of few, in 3.5 s; the eight of the upload come after them
        embedder.embed([png()])
    with pytest.raises(Saturated, match="takes 41 s"):
        embedder.embed([png()] * 46)
    many = threading.Thread(target=lambda: embedder.embed([png()] * 40))
    many.start()
    while embedder.stats().queued_images < 52:
        assert time.monotonic() < until
        time.sleep(0.01)
    gate.open.set()
    for thread in (*waiting, many):
        thread.join(TIMEOUT_S)
    assert embedder.stats().queued_images == 0


@pytest.mark.parametrize("way", ["thread", "loop"])
def test_a_network_that_hangs_is_answered_at_the_deadline(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], way: str
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, batch_images=1, embed_timeout_s=1.0)
    begun = time.monotonic()
    images = [png(), png()]  # one is being computed, one waits
    answers = embedder.embed(images) if way == "thread" else asyncio.run(embedder.embed_async(images))
    assert [type(answer) for answer in answers] == [DeadlinePassed] * 2
    assert 0.9 < time.monotonic() - begun < 3
    gate.open.set()
    until = time.monotonic() + TIMEOUT_S
    while embedder.stats().queued_images:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert gate.images <= 1, "nobody waited for the second"
    assert isinstance(embedder.embed([png()])[0], Embedded)


def test_patient_work_has_no_deadline(make_embedder: Callable[..., Embedder], png: Callable[..., bytes]) -> None:
    gate = Gate()
    embedder = make_embedder(gate, embed_timeout_s=0.5)
    threading.Timer(1.5, gate.open.set).start()
    [answer] = embedder.embed([png()], patient=True)
    assert isinstance(answer, Embedded)


def test_a_query_goes_before_an_upload(make_embedder: Callable[..., Embedder], png: Callable[..., bytes]) -> None:
    gate = Gate()

    def slow(pixels: Floats, patches: bool, /) -> tuple[Floats, Floats]:
        time.sleep(0.1)
        return gate(pixels, patches)

    embedder = make_embedder(slow, batch_images=1)
    ended: list[str] = []

    def ask(name: str, images: int) -> None:
        embedder.embed([png()] * images)
        ended.append(name)

    upload = threading.Thread(target=ask, args=("upload", INTERACTIVE_IMAGES + 1))
    upload.start()
    assert gate.entered.wait(TIMEOUT_S)
    query = threading.Thread(target=ask, args=("query", 1))
    query.start()
    until = time.monotonic() + TIMEOUT_S
    while embedder._pipeline._decoding:
        assert time.monotonic() < until
        time.sleep(0.01)
    gate.open.set()
    for thread in (upload, query):
        thread.join(TIMEOUT_S)
    assert ended == ["query", "upload"]


def test_a_network_that_ends_its_thread_is_started_anew(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    dies = True

    def run(pixels: Floats, patches: bool, /) -> tuple[Floats, Floats]:
        if dies:
            raise SystemExit
        return np.ones((len(pixels), 32), np.float32), np.ones((len(pixels), 16, 32), np.float32)

    embedder = make_embedder(run)
    assert [type(answer) for answer in embedder.embed([png()] * 3)] == [EmbedderRestarted] * 3
    dies = False
    assert isinstance(embedder.embed([png()])[0], Embedded)


def test_readiness_embeds_an_image_where_none_was_embedded_just_now(
    make_embedder: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    gate.open.set()
    embedder = make_embedder(gate)
    assert asyncio.run(embedder.ready())
    assert gate.images == 1
    assert asyncio.run(embedder.ready())
    assert gate.images == 1
    monkeypatch.setattr("service.embedding.embedder.PROBE_AFTER_S", 0.0)
    assert asyncio.run(embedder.ready())
    assert gate.images == 2
    gate.value = float("nan")
    assert not asyncio.run(embedder.ready())


def test_s32_what_a_cancelled_caller_left_waiting_is_not_computed(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, batch_images=1)

    async def main() -> None:
        task = asyncio.create_task(embedder.embed_async([png()] * 4))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gate.open.set()
    embedder.embed([png()])
    assert gate.images == 2  # the one that was being computed, and the one asked for since
    assert len(embedder.embed([png()] * 8)) == 8


def test_what_a_cancelled_caller_left_waiting_holds_no_memory(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, batch_images=1, queue_images=64)

    async def main() -> None:
        task = asyncio.create_task(embedder.embed_async([png()] * 60))
        while embedder.stats().waiting_for_network < 59:
            await asyncio.sleep(0.01)
        waiting = [ticket for *_, ticket in embedder._pipeline._batcher._queue._heap]
        before = [ticket.pixels is not None and ticket.image != b"" for ticket in waiting]
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert before == [True] * 59
        assert [(ticket.pixels, ticket.image) for ticket in waiting] == [(None, b"")] * 59
        assert (embedder.stats().queued_images, embedder.stats().queued_bytes) == (0, 0)

    asyncio.run(main())
    gate.open.set()


def test_images_that_decode_slowly_are_refused_before_they_would_be_late(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.embedding.decoder_pool import Decoders

    decode = Decoders.decode

    def slow(decoders: Decoders, *args: object, **options: object) -> object:
        time.sleep(0.5)
        return decode(decoders, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoders, "decode", slow)
    embedder = make_embedder(queue_images=100, embed_timeout_s=5.0)
    embedder.embed([png()] * 2)
    waiting = threading.Thread(target=lambda: embedder.embed([png()]))
    waiting.start()
    while embedder.stats().queued_images < 1:
        time.sleep(0.01)
    with pytest.raises(Saturated, match="what waits takes"):
        embedder.embed([png()] * 12)
    waiting.join(TIMEOUT_S)


def test_s03_what_is_no_image_takes_no_place_and_waits_for_nobody(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.embedding.decoder_pool import Decoders

    gate = Gate()
    embedder = make_embedder(gate, queue_images=1)
    waiting = threading.Thread(target=lambda: embedder.embed([png()]))
    waiting.start()
    assert gate.entered.wait(TIMEOUT_S)
    monkeypatch.setattr(Decoders, "decode", None)  # nothing is decoded
    found = embedder.embed([b"", b"<html></html>", png()[:4], b"\x89PNG\r\n\x1a\n" + bytes(20 * 2**20)])
    assert [type(each) for each in found] == [EmptyImage, UnsupportedImageType, UnsupportedImageType, TooManyBytes]
    with pytest.raises(Saturated):
        embedder.embed([b"", png()])
    gate.open.set()
    waiting.join(TIMEOUT_S)


def test_closing_leaves_a_network_behind_that_hangs(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, embed_timeout_s=1.0)
    assert [type(answer) for answer in embedder.embed([png()])] == [DeadlinePassed]
    begun = time.monotonic()
    embedder.close(within_s=0.5)
    assert 0.4 < time.monotonic() - begun < 3
    gate.open.set()


def test_the_wait_for_a_decoder_counts_as_waiting(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.embedding.decoder_pool import Decoders

    decode = Decoders.decode

    def slow(decoders: Decoders, *args: object, **options: object) -> object:
        time.sleep(0.2)
        return decode(decoders, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoders, "decode", slow)
    first, second, third = make_embedder(decode_workers=1).embed([png()] * 3)
    assert all(isinstance(answer, Embedded) for answer in (first, second, third))
    assert first.queue_s < 0.2 < 0.39 < third.queue_s  # type: ignore[union-attr]
    assert third.decode_s < 0.39  # type: ignore[union-attr]


def test_decoding_alone_has_the_same_room_and_deadline(
    make_embedder: Callable[..., Embedder], png: Callable[..., bytes]
) -> None:
    gate = Gate()
    embedder = make_embedder(gate, queue_images=1, embed_timeout_s=3.0)

    async def main() -> None:
        square = (await embedder.decode_async(png())).square
        assert square is not None
        assert square.shape == (32, 32, 3)
        small = await embedder.decode_async(png(), thumbnail=True)
        assert small.square is None
        assert small.thumbnail is not None
        with pytest.raises(UnsupportedImageType):
            await embedder.decode_async(b"no image")
        waiting = asyncio.create_task(embedder.embed_async([png()]))
        assert await asyncio.to_thread(gate.entered.wait, TIMEOUT_S)
        with pytest.raises(Saturated):
            await embedder.decode_async(png())
        gate.open.set()
        await waiting

    asyncio.run(main())


def test_closing_answers_what_was_admitted(make_embedder: Callable[..., Embedder], png: Callable[..., bytes]) -> None:
    embedder = make_embedder()
    embedder.close()
    with pytest.raises(Stopping):
        embedder.embed([png()])
    assert not asyncio.run(embedder.ready())
    embedder.close()


@pytest.mark.parametrize(("size", "expected"), [((640, 320), (64, 32)), ((20, 30), (20, 30)), ((64, 64), (64, 64))])
def test_a_thumbnail_is_a_jpeg_that_fits(
    make_embedder: Callable[..., Embedder], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    [answer] = make_embedder().embed([encoded(picture(*size), "JPEG")], thumbnails=True)
    assert isinstance(answer, Embedded)
    assert answer.thumbnail is not None
    with Image.open(io.BytesIO(answer.thumbnail)) as small:
        assert (small.format, small.size) == ("JPEG", expected)


def test_many_threads_get_their_own_answers(make_embedder: Callable[..., Embedder], png: Callable[..., bytes]) -> None:
    embedder = make_embedder(queue_images=64)
    images = [png(seed=seed) for seed in range(8)]
    expected = [embedder.embed([image])[0] for image in images]
    found: dict[int, object] = {}

    def ask(index: int) -> None:
        found[index] = embedder.embed([images[index]])[0]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    for index, reference in enumerate(expected):
        answer = found[index]
        assert isinstance(answer, Embedded)
        assert isinstance(reference, Embedded)
        assert np.abs(answer.vector - reference.vector).max() < 1e-6
