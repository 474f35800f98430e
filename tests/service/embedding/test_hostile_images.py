"""Images that mean harm, or only odd ones, through the front door: a status and a code, soon, and a good image afterwards as before."""

from __future__ import annotations

import errno
import io
import os
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from colours import COLOURS, SIZE
from harmful import (
    LARGE,
    METADATA,
    NO_IMAGES,
    animated,
    endless,
    interlaced_of,
    lying,
    palette_of,
    with_scans,
)
from pictures import encoded, picture, png_of
from PIL import Image, PngImagePlugin
from processes import descriptors, memory_bytes

from service.memory_budget import DECODER_BYTES

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact
    from service.embedding.decoder_pool import Decoders

SOON_S = 1.0  # most of it this machine's other work: the checks take microseconds, and decoding milliseconds
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@pytest.fixture(scope="module")
def service(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for all of these images; that it stays as it was is what they are about."""
    from starlette.testclient import TestClient

    from service.app import create_app
    from service.settings import load_settings

    data = tmp_path_factory.mktemp("hostile")
    temporary = tmp_path_factory.mktemp("temporary")  # of this service alone, so that what is left there is its own
    options = {"runtime": "torch", "precision": "fp32", "threads": 1, "decode_workers": 1, "allow_anonymous": True}
    app = create_app(load_settings(artifact=tiny_artifact.path, data=data, **options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


Embed = Callable[..., tuple[int, str]]


@pytest.fixture
def embed(service: TestClient) -> Iterator[Embed]:
    """Send an image: its status, and the code of a refusal. A good image has the same vector before and after."""
    before = vector(service, encoded(LARGE))

    def send(image: bytes, content_type: str = "image/png", within_s: float = SOON_S) -> tuple[int, str]:
        begun = time.monotonic()
        answer = service.post("/v1/embed", content=image, headers={"content-type": content_type})
        assert time.monotonic() - begun < within_s
        if answer.status_code == 200:
            found = np.array(answer.json()["data"][0]["embedding"])
            assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
            return 200, ""
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["code"]

    yield send
    np.testing.assert_array_equal(vector(service, encoded(LARGE)), before)


def decoder_of(service: TestClient) -> Decoders:
    decoders: Decoders = service.app.state.service.models.default.embedder._pipeline._decoders  # type: ignore[attr-defined]
    return decoders


def decoder_pid(service: TestClient) -> int:
    [decoder] = decoder_of(service)._all
    return decoder._child.pid


def vector(service: TestClient, image: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    answer = service.post("/v1/embed", content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"])


@pytest.mark.parametrize("body", [b"", b" ", b" \r\n\t" * 10], ids=["nothing", "a space", "lines"])
def test_s01_an_empty_body_is_400(embed: Embed, body: bytes) -> None:
    assert embed(body) == (400, "empty_body")


@pytest.mark.parametrize("kind", KINDS)
def test_s02_an_image_cut_off_at_any_sixteenth_is_refused_and_never_filled_with_grey(embed: Embed, kind: str) -> None:
    whole = encoded(LARGE, kind)
    assert embed(whole, KINDS[kind]) == (200, "")
    for sixteenth in range(1, 16):
        assert embed(whole[: len(whole) * sixteenth // 16], KINDS[kind]) == (422, "image_corrupt"), sixteenth


@pytest.mark.parametrize("case", NO_IMAGES)
def test_s03_s04_what_has_no_signature_of_three_formats_is_415_whatever_it_is_called(embed: Embed, case: str) -> None:
    for content_type in KINDS.values():
        assert embed(NO_IMAGES[case], content_type) == (415, "unsupported_image_type")


@pytest.mark.parametrize("make", [png_of, palette_of, interlaced_of], ids=["one bit", "palette", "interlaced"])
def test_s05_a_bomb_of_pixels_is_refused_by_its_header(embed: Embed, make: Callable[[int, int], bytes]) -> None:
    bomb = make(13_000, 13_000)
    assert len(bomb) < 100_000
    assert embed(bomb) == (422, "too_many_pixels")
    assert embed(make(130, 130)) in (
        (200, ""),
        (422, "image_corrupt"),
    )  # as large as it says, or interlaced rows that are none


@pytest.mark.parametrize("kind", KINDS)
def test_s06_a_header_that_lies_about_the_size_allocates_nothing(embed: Embed, kind: str) -> None:
    status, code = embed(lying(kind, 65_500, 65_500), KINDS[kind])
    assert (status, code) in ((422, "too_many_pixels"), (422, "image_corrupt"))
    assert embed(lying(kind, 7_000, 7_000), KINDS[kind])[0] == 422  # within the limits, but there are no such pixels


def test_s07_a_bomb_of_scans_is_refused_by_counting_them(embed: Embed) -> None:
    assert embed(encoded(LARGE, "JPEG", progressive=True), "image/jpeg") == (200, "")
    assert embed(with_scans(101), "image/jpeg") == (422, "too_many_scans")
    assert embed(with_scans(320_000), "image/jpeg") == (422, "too_many_scans")
    assert embed(with_scans(100), "image/jpeg")[1] != "too_many_scans"


@pytest.mark.parametrize("case", METADATA)
def test_s08_metadata_of_any_size_costs_no_more_than_its_image_may(embed: Embed, case: str) -> None:
    make, answer = METADATA[case]
    assert embed(make(), within_s=10) == answer


@pytest.mark.parametrize(("kind", "frames"), [("WEBP", 60), ("PNG", 60)])
def test_s09_of_an_animation_the_first_frame_is_embedded(
    embed: Embed, service: TestClient, kind: str, frames: int
) -> None:
    image = animated(kind, frames)
    assert embed(image, KINDS[kind]) == (200, "")
    still = encoded(LARGE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_allclose(vector(service, image), vector(service, still), atol=1e-6)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_s09_of_ten_thousand_frames_the_first_is_embedded_as_soon(embed: Embed, service: TestClient, kind: str) -> None:
    image = endless(kind, 10_000)
    assert Image.open(io.BytesIO(image)).n_frames == 10_000
    assert embed(image, KINDS[kind]) == (200, "")
    np.testing.assert_allclose(vector(service, image), vector(service, encoded(LARGE)), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_s10_an_oriented_image_has_the_vector_of_the_upright_one(service: TestClient, orientation: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpose that undoes what the orientation does
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = LARGE if orientation == 1 else LARGE.transpose(Image.Transpose(back[orientation]))
    image = encoded(turned, "PNG", exif=exif)
    np.testing.assert_allclose(vector(service, image), vector(service, encoded(LARGE)), atol=1e-4)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00" + b"\xff" * 5000]
)
def test_s10_malformed_exif_costs_nothing(service: TestClient, exif: bytes) -> None:
    plain = encoded(LARGE, "JPEG")
    damaged = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    np.testing.assert_array_equal(vector(service, damaged), vector(service, plain))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_s11_every_mode_of_a_png_is_embedded_as_its_rgb(service: TestClient, mode: str) -> None:
    grey = np.asarray(LARGE.convert("L"))
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else LARGE.convert(mode)
    shown = Image.fromarray(grey) if mode == "I;16" else image
    np.testing.assert_allclose(
        vector(service, encoded(image)), vector(service, encoded(shown.convert("RGB"))), atol=1e-5
    )


def test_s11_transparent_pixels_are_white(service: TestClient) -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    info = PngImagePlugin.PngInfo()
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([255, 0, 0])
    white = vector(service, encoded(Image.new("RGB", (64, 64), "white")))
    np.testing.assert_allclose(vector(service, encoded(clear)), white, atol=1e-5)
    np.testing.assert_allclose(vector(service, encoded(palette, "PNG", transparency=0, pnginfo=info)), white, atol=1e-5)


def test_s11_cmyk_is_embedded_as_pillow_shows_it(embed: Embed) -> None:
    assert embed(encoded(LARGE.convert("CMYK"), "JPEG"), "image/jpeg") == (200, "")
    assert embed(encoded(LARGE.convert("YCbCr"), "JPEG"), "image/jpeg") == (200, "")


@pytest.mark.parametrize("mode", COLOURS)
def test_s11_a_colour_has_the_vector_of_the_rgb_that_the_rules_make_of_it(service: TestClient, mode: str) -> None:
    make, rgb = COLOURS[mode]
    shown = vector(service, encoded(Image.new("RGB", SIZE, rgb)))
    np.testing.assert_allclose(vector(service, make()), shown, atol=1e-5)
    other = vector(service, encoded(Image.new("RGB", SIZE, tuple(255 - value for value in rgb))))
    assert np.abs(other - shown).max() > 0.01  # the network sees colours at all


@pytest.mark.parametrize(
    ("width", "height", "status"),
    [(1, 1, 200), (2, 2, 200), (1, 100, 200), (100, 1, 200), (1, 101, 422), (20_000, 1, 422), (1, 20_000, 422)],
)
def test_s12_tiny_images_are_embedded_and_strips_are_too_small(
    embed: Embed, width: int, height: int, status: int
) -> None:
    assert embed(encoded(Image.new("RGB", (width, height), (1, 2, 3)))) == (
        status,
        "" if status == 200 else "too_small",
    )


@pytest.mark.parametrize("colour", ["black", "white", "red"])
def test_s12_an_image_of_one_colour_has_a_vector(embed: Embed, colour: str) -> None:
    assert embed(encoded(Image.new("RGB", (300, 300), colour))) == (200, "")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tail", [b"garbage" * 100, b"PK\x03\x04" + bytes(500), encoded(picture(seed=9), "JPEG")])
def test_s13_what_follows_an_image_does_not_matter(service: TestClient, kind: str, tail: bytes) -> None:
    image = encoded(LARGE, kind)
    np.testing.assert_array_equal(vector(service, image + tail), vector(service, image))


def items(service: TestClient, images: list[bytes]) -> list[dict[str, Any]]:
    answer = service.post("/v1/embed", files=[("files", ("image", image, "image/png")) for image in images])
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def test_s14_the_others_of_a_batch_are_embedded_when_one_kills_its_decoder(service: TestClient) -> None:
    images = [encoded(picture(seed=seed)) for seed in range(8)]
    alone = [vector(service, image) for image in images]
    restarts = decoder_of(service).restarts
    with ThreadPoolExecutor(1) as pool:
        os.kill(decoder_pid(service), signal.SIGSTOP)
        asked = pool.submit(items, service, images)
        time.sleep(0.3)  # it is sent the first image, and holds it
        os.kill(decoder_pid(service), signal.SIGKILL)
        first, *others = asked.result(20)
    assert (first["error"]["status"], first["error"]["code"]) == (422, "decoder_crashed")
    for item, expected in zip(others, alone[1:], strict=True):
        np.testing.assert_allclose(item["embedding"], expected, atol=1e-6)
    assert decoder_of(service).restarts == restarts + 1


def test_s14_where_no_decoder_can_be_started_images_are_503_until_one_can(
    service: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = vector(service, encoded(LARGE))
    os.kill(decoder_pid(service), signal.SIGKILL)
    os.waitid(os.P_PID, decoder_pid(service), os.WEXITED | os.WNOWAIT)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refused)
        answer = service.post("/v1/embed", content=encoded(LARGE), headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (503, "decoder_unavailable")
        assert answer.headers["retry-after"] == "1"
        errors = [item["error"] for item in items(service, [encoded(LARGE)] * 3)]
        assert [(error["status"], error["retry_after_s"]) for error in errors] == [(503, 1)] * 3
    np.testing.assert_array_equal(vector(service, encoded(LARGE)), before)


def corpus() -> list[tuple[bytes, str]]:
    """Return one or more of every kind on this page, with what it says it is."""
    turned = Image.Exif()
    turned[0x0112] = 6
    made = [(b"", "PNG"), *((body, "JPEG") for body in NO_IMAGES.values())]
    for kind in KINDS:
        whole = encoded(LARGE, kind)
        made += [(whole[: len(whole) * sixteenth // 16], kind) for sixteenth in range(1, 16)]
        made += [(lying(kind, 65_500, 65_500), kind), (lying(kind, 7_000, 7_000), kind), (whole + bytes(500), kind)]
    made += [(make(13_000, 13_000), "PNG") for make in (png_of, palette_of, interlaced_of)]
    made += [(with_scans(scans), "JPEG") for scans in (100, 101, 406, 320_000)]
    made += [(make(), "PNG") for make, _ in (*METADATA.values(), *COLOURS.values())]
    made += [(encoded(LARGE, "JPEG", exif=exif), "JPEG") for exif in (turned, b"Exif\x00\x00" + b"\xff" * 5000)]
    made += [(endless(kind, 10_000), kind) for kind in ("WEBP", "PNG")]
    made += [(encoded(Image.new("RGB", size)), "PNG") for size in ((1, 1), (2, 2), (20_000, 1), (1, 20_000))]
    return made


def test_s01_s02_s03_s04_s05_s06_s07_s08_s09_s10_s11_s12_s13_nothing_is_left_of_any_of_them(
    service: TestClient,
) -> None:
    images = corpus()
    before = vector(service, encoded(LARGE))
    process, decoder = os.getpid(), decoder_pid(service)
    held, opened = memory_bytes(process, "VmRSS"), descriptors()
    statuses = {sent(service, image, kind) for image, kind in images}
    assert statuses == {200, 400, 415, 422}
    once = [memory_bytes(process, "VmRSS"), memory_bytes(decoder, "VmRSS")]
    assert once[0] < 1.05 * held
    assert (
        once[1] < DECODER_BYTES
    )  # what the service's ceiling counts for a decoder between images, its buffers included
    assert {sent(service, image, kind) for image, kind in images} == statuses
    assert memory_bytes(process, "VmRSS") < 1.05 * once[0]
    assert memory_bytes(decoder, "VmRSS") < 1.05 * once[1]
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
    assert descriptors() == opened
    assert decoder_pid(service) == decoder
    np.testing.assert_array_equal(vector(service, encoded(LARGE)), before)


def sent(service: TestClient, image: bytes, kind: str) -> int:
    return service.post("/v1/embed", content=image, headers={"content-type": KINDS[kind]}).status_code
