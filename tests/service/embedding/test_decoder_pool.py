"""Decoding in processes: the same pixels as in this one, and whatever befalls a process costs one image (S14, S15)."""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from harmful import interlaced_of, lying, palette_of, with_scans
from hostile_folder import hostile_folder
from pictures import encoded, picture, png_of
from PIL import Image, PngImagePlugin
from processes import cpu_s, descriptors, memory_bytes
from structlog.testing import capture_logs

from backbone.decode import SERVICE_FORMATS, DecodeLimits, decode
from backbone.errors import (
    CorruptImage,
    DecoderCrashed,
    DecodeTooSlow,
    EmptyImage,
    ImageRefused,
    TooManyPixels,
    UnsupportedImageType,
)
from backbone.formats import INSTALLED_FORMATS, PILLOW_NAMES, load_decoders
from backbone.preprocess import Preprocess
from service.embedding import decoder_pool, decoder_worker
from service.embedding.decoder_pool import Decoders
from service.errors import DecoderUnavailable

PREPROCESS = Preprocess.for_image_size(224)
LIMITS = DecodeLimits(formats=SERVICE_FORMATS)
GOOD = encoded(picture())


@contextmanager
def decoders(
    decode_workers: int = 1, decode_timeout_s: float = 20.0, limits: DecodeLimits = LIMITS
) -> Iterator[Decoders]:
    made = Decoders(PREPROCESS, limits, 64, decode_workers, decode_timeout_s)
    try:
        yield made
    finally:
        made.close()


def pid(made: Decoders) -> int:
    [decoder] = made._all
    return decoder._child.pid


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "1", "P", "LA", "I;16"])
def test_the_pixels_are_those_that_this_process_would_decode(mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (300, 400), np.uint16))
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG" if mode == "CMYK" else "PNG")
    with decoders() as made:
        square = made.decode(file.getvalue()).square
        assert square is not None
        np.testing.assert_array_equal(PREPROCESS.normalised(square), PREPROCESS(file.getvalue(), LIMITS))


def test_a_thumbnail_is_for_people_also_where_the_network_is_small() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (800, 1200, 3), np.uint8))
    file = io.BytesIO()
    photo.save(file, "JPEG")
    small = Preprocess.for_image_size(16)
    made = Decoders(small, LIMITS, 256, 1, 20.0)
    try:
        both = made.decode(file.getvalue(), thumbnail=True)
        assert both.square is not None
        assert both.square.shape == (16, 16, 3)
        assert both.thumbnail is not None
        assert decode(both.thumbnail).size == (256, 171)
        alone = made.decode(file.getvalue(), square=False, thumbnail=True)
        assert alone.square is None
        assert alone.thumbnail == both.thumbnail
        assert made.decode(file.getvalue()).thumbnail is None
    finally:
        made.close()


COMMENT = b"a comment of a stranger's " * 3000  # longer than a JPEG's comment may be


def commented(kind: str) -> bytes:
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("comment", COMMENT)
        return encoded(picture(), kind, pnginfo=info)
    beside = {"icc_profile": COMMENT, "exif": b"Exif\x00\x00" + COMMENT[:60_000], "xmp": COMMENT[:60_000]}
    return encoded(picture(), kind, **beside, **({"comment": COMMENT[:60_000]} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", SERVICE_FORMATS)
def test_s08_a_thumbnail_carries_nothing_but_pixels(kind: str) -> None:
    with decoders() as made:
        found = made.decode(commented(kind), thumbnail=True).thumbnail
        plain = made.decode(encoded(picture(), kind), thumbnail=True).thumbnail
        assert found == plain
        assert made.restarts == 0


@pytest.mark.parametrize("step", ["square", "thumbnail"])
def test_s08_an_error_after_decoding_is_that_images_refusal(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def failing(*_: object) -> None:
        raise ValueError("this picture does not fit")

    monkeypatch.setattr(decoder_worker, "thumbnail", failing)
    monkeypatch.setattr(Preprocess, "square", failing)
    wanted = decoder_worker.SQUARE if step == "square" else decoder_worker.THUMBNAIL
    kind, name, message = decoder_worker._answer(GOOD, wanted, PREPROCESS, LIMITS, 64)
    assert (kind, name) == (decoder_worker.REFUSED, b"CorruptImage")
    assert b"does not fit" in message


def test_refusals_are_what_they_are_in_this_process() -> None:
    with decoders(limits=DecodeLimits(formats=SERVICE_FORMATS, max_pixels=10_000)) as made:
        for data, kind in (
            (b"", EmptyImage),
            (b"GIF89a and more", UnsupportedImageType),
            (GOOD[: len(GOOD) // 2], CorruptImage),
            (png(Image.new("RGB", (101, 100))), TooManyPixels),
        ):
            with pytest.raises(kind) as refusal:
                made.decode(data)
            with pytest.raises(kind) as expected:
                decode(data, DecodeLimits(formats=SERVICE_FORMATS, max_pixels=10_000))
            assert str(refusal.value) == str(expected.value)
        assert made.decode(png(Image.new("RGB", (100, 100)))).square is not None
        assert made.restarts == 0


def growth_bytes(image: bytes) -> int:
    """Return how much the most memory of a decoder grows by an image that it refuses."""
    with decoders() as made:
        made.decode(GOOD, thumbnail=True)
        before = memory_bytes(pid(made), "VmHWM")
        with pytest.raises(ImageRefused):
            made.decode(image, thumbnail=True)
        assert made.restarts == 0
        return memory_bytes(pid(made), "VmHWM") - before


def refusing_s(image: bytes) -> float:
    """Return the seconds of a core that the refusal of an image takes, as a decoder refuses it."""
    begun = time.thread_time()
    with pytest.raises(ImageRefused):
        decode(image, LIMITS)
    return time.thread_time() - begun


@pytest.mark.parametrize("make", [png_of, palette_of, interlaced_of], ids=["one bit", "palette", "interlaced"])
def test_s05_a_bomb_of_pixels_takes_a_decoder_neither_time_nor_memory(make: Callable[[int, int], bytes]) -> None:
    bomb = make(13_000, 13_000)
    assert refusing_s(bomb) < 0.02
    assert growth_bytes(bomb) < 20_000_000


@pytest.mark.parametrize("side", [65_500, 7_000])
@pytest.mark.parametrize("kind", SERVICE_FORMATS)
def test_s06_a_header_that_lies_takes_a_decoder_no_memory(kind: str, side: int) -> None:
    assert growth_bytes(lying(kind, side, side)) < 20_000_000


@pytest.mark.parametrize("scans", [406, 320_000])
def test_s07_a_bomb_of_scans_takes_a_decoder_no_time(scans: int) -> None:
    assert refusing_s(with_scans(scans)) < 0.01


def test_s14_a_decoder_killed_at_an_image_costs_that_image_alone() -> None:
    with decoders() as made, ThreadPoolExecutor(1) as pool:
        made.decode(GOOD)
        os.kill(pid(made), signal.SIGSTOP)
        asked = pool.submit(made.decode, GOOD)
        time.sleep(0.2)
        os.kill(pid(made), signal.SIGKILL)
        with pytest.raises(DecoderCrashed, match="ended at this image"):
            asked.result(20)
        assert made.decode(GOOD).square is not None
        assert made.restarts == 1


def test_s14_a_decoder_that_ended_between_two_images_blames_neither() -> None:
    with decoders() as made:
        made.decode(GOOD)
        os.kill(pid(made), signal.SIGKILL)
        os.waitid(os.P_PID, pid(made), os.WEXITED | os.WNOWAIT)
        assert made.decode(GOOD).square is not None
        assert made.restarts == 1


def test_s14_without_descriptors_a_decoder_is_unavailable_and_later_it_is_not() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with decoders() as made:
        opened = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # those that are open stay so
        try:
            with pytest.raises(DecoderUnavailable, match="come back in a second"):
                made.decode(GOOD)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == opened
        assert made.decode(GOOD).square is not None


@contextmanager
def no_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        yield


def test_s14_without_processes_a_decoder_is_unavailable_and_holds_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = descriptors()
    with decoders() as made:
        with no_process(monkeypatch):
            for _ in range(3):
                with pytest.raises(DecoderUnavailable):
                    made.decode(GOOD)
        assert descriptors() == opened
        assert made.decode(GOOD).square is not None
        assert made.restarts == 0


def test_s14_a_killed_decoder_that_cannot_be_started_again_still_blames_its_image_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with decoders() as made, ThreadPoolExecutor(1) as pool:
        made.decode(GOOD)
        with no_process(monkeypatch):
            os.kill(pid(made), signal.SIGSTOP)
            asked = pool.submit(made.decode, GOOD)
            time.sleep(0.2)
            os.kill(pid(made), signal.SIGKILL)
            with pytest.raises(DecoderCrashed):
                asked.result(20)
            with pytest.raises(DecoderUnavailable):
                made.decode(GOOD)
        assert made.decode(GOOD).square is not None


def test_u08_a_decoder_runs_no_file_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = hostile_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as `python -m` has it
    with decoders() as made:
        assert made.decode(GOOD).square is not None
        assert made.trouble is None
    assert not mark.exists()


@pytest.mark.parametrize(
    ("program", "why", "logged"),
    [
        ("raise ImportError('no /srv/secret.so')", "ImportError", "ImportError: no /srv/secret.so"),
        ("import sys; sys.exit('no luck')", "exit status 1", "no luck"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11", "exit status -11"),
    ],
)
def test_u08_a_decoder_that_ends_at_its_start_blames_no_image_and_says_why(
    monkeypatch: pytest.MonkeyPatch, program: str, why: str, logged: str
) -> None:
    opened = descriptors()
    with decoders() as made, capture_logs() as log:
        with monkeypatch.context() as patch:
            patch.setattr(decoder_pool, "module_command", lambda *_: [sys.executable, "-c", program])
            for _ in range(2):
                with pytest.raises(DecoderUnavailable, match="ends at its start") as refusal:
                    made.decode(GOOD)
        assert why in str(refusal.value)
        assert "secret" not in str(refusal.value)
        assert made.trouble == str(refusal.value)
        assert descriptors() == opened
        assert made.decode(GOOD).square is not None
        assert made.trouble is None
    assert [(line["event"], line["detail"]) for line in log] == [("decoder_not_started", logged)]


@pytest.mark.parametrize("data", [GOOD, b"\xff\xd8\xff" + bytes(10_000_000)])
def test_s15_a_decoder_that_hangs_is_ended_at_the_deadline(data: bytes) -> None:
    """Also where it does not even take the image."""
    with decoders() as made:
        made.decode(GOOD)  # it has started
        made._all[0]._decode_timeout_s = 1.0
        hanging = pid(made)
        os.kill(hanging, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(DecodeTooSlow, match="within 1 s"):
            made.decode(data)
        assert 0.9 < time.monotonic() - begun < 3
        assert not Path(f"/proc/{hanging}").exists()
        made._all[0]._decode_timeout_s = 20.0
        assert made.decode(GOOD).square is not None
        assert made.restarts == 1


def ended_s() -> float:
    """Return the seconds that all children have computed which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_s15_a_decoder_that_computes_for_too_long_is_ended_at_the_deadline() -> None:
    busy = png_of(7_000, 7_000)  # six kilobytes, half a second of a core
    with decoders() as made:
        made.decode(GOOD)
        made._all[0]._decode_timeout_s = 0.15
        spinning = pid(made)
        computed_s = cpu_s(spinning) + ended_s()
        begun = time.monotonic()
        with pytest.raises(DecodeTooSlow, match=r"within 0\.15 s"):
            made.decode(busy)
        assert 0.14 < time.monotonic() - begun < 2
        assert not Path(f"/proc/{spinning}").exists()
        assert ended_s() - computed_s > 0.03  # it did not wait: it computed
        made._all[0]._decode_timeout_s = 20.0
        assert made.decode(GOOD).square is not None
        assert made.restarts == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_largest_image_that_the_limits_let_through_is_decoded(mode: str) -> None:
    with decoders() as made:
        image = Image.new(mode, (5_000, LIMITS.max_pixels // 5_000))
        assert made.decode(png(image)).square is not None
        assert made.restarts == 0


def test_a_decoder_has_as_much_memory_as_the_largest_image_needs_and_no_more() -> None:
    pixels = 4_000_000
    limits = DecodeLimits(formats=SERVICE_FORMATS, max_pixels=pixels)
    with decoders(limits=limits) as made:
        for mode in ("RGBA", "LA", "P", "RGB"):
            assert made.decode(png(Image.new(mode, (2_000, pixels // 2_000))), thumbnail=True).square is not None
        least = resource.prlimit(pid(made), resource.RLIMIT_AS)[0]
        assert least < 2**30
        with Path(f"/proc/{pid(made)}/statm").open() as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.prlimit(pid(made), resource.RLIMIT_AS, (now + 10**6, now + 10**6))
        with pytest.raises(TooManyPixels, match="memory"):
            made.decode(png(Image.new("RGBA", (2_000, pixels // 2_000))))
        assert made.restarts == 0


def test_a_decoder_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINODEX_API_KEY", "a-secret-key")
    with decoders() as made:
        made.decode(GOOD)
        assert b"secret" not in Path(f"/proc/{pid(made)}/environ").read_bytes()
        assert resource.prlimit(pid(made), resource.RLIMIT_CORE) == (0, 0)


def test_several_threads_share_few_decoders() -> None:
    images = [png(Image.fromarray(np.full((64, 64, 3), i, np.uint8))) for i in range(40)]
    with decoders(decode_workers=2) as made, ThreadPoolExecutor(8) as pool:
        for value, found in enumerate(pool.map(made.decode, images)):
            assert found.square is not None
            assert (found.square == value).all()


def test_closing_leaves_no_process_and_no_descriptor() -> None:
    opened = descriptors()
    threads = threading.active_count()
    with decoders(decode_workers=2) as made, ThreadPoolExecutor(2) as pool:
        list(pool.map(made.decode, [GOOD] * 8))
        children = [decoder._child.pid for decoder in made._all]
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert descriptors() == opened
    assert threading.active_count() == threads


@pytest.mark.parametrize("kind", [name for name in ("AVIF", "HEIC") if name in INSTALLED_FORMATS])
def test_u06_a_decoder_reads_heic_and_avif_where_its_limits_let_it(kind: str) -> None:
    load_decoders((kind,))
    image = encoded(picture(300, 200), PILLOW_NAMES.get(kind, kind))
    with decoders() as strict, pytest.raises(UnsupportedImageType, match="accepted are JPEG, PNG, WEBP"):
        strict.decode(image)
    limits = DecodeLimits(formats=(*SERVICE_FORMATS, kind))
    with decoders(limits=limits) as made:
        both = made.decode(image, thumbnail=True)
        assert both.square is not None
        np.testing.assert_array_equal(both.square, PREPROCESS.square(decode(image, limits, cover=PREPROCESS.resize)))
        assert both.thumbnail is not None
        assert decode(both.thumbnail).size == (64, 43)
        assert made.restarts == 0
        with pytest.raises(ImageRefused):
            made.decode(image[: len(image) // 2])
        assert made.restarts == 0
