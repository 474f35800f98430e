"""Images that mean harm, or only odd ones, through the front door: a status and a code, soon, and a good image afterwards as before."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pictures import encoded, picture, png_of
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from backbone import Artifact

SOON_S = 1.0  # most of it this machine's other work: the checks take microseconds, and decoding milliseconds
LARGE = picture(200, 160)
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@pytest.fixture(scope="module")
def service(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for all of these images; that it stays as it was is what they are about."""
    from starlette.testclient import TestClient

    from service.app import create_app
    from service.settings import load_settings

    data = tmp_path_factory.mktemp("hostile")
    options = {"runtime": "torch", "precision": "fp32", "threads": 1, "decode_workers": 1, "allow_anonymous": True}
    app = create_app(load_settings(artifact=tiny_artifact.path, data=data, **options))
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


def vector(service: TestClient, image: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    answer = service.post("/v1/embed", content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"])


def png_chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        chunks.append((image[at + 4 : at + 8], image[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("body", [b"", b" ", b" \r\n\t" * 10], ids=["nothing", "a space", "lines"])
def test_s01_an_empty_body_is_400(embed: Embed, body: bytes) -> None:
    assert embed(body) == (400, "empty_body")


@pytest.mark.parametrize("kind", KINDS)
def test_s02_an_image_cut_off_at_any_sixteenth_is_refused_and_never_filled_with_grey(embed: Embed, kind: str) -> None:
    whole = encoded(LARGE, kind)
    assert embed(whole, KINDS[kind]) == (200, "")
    for sixteenth in range(1, 16):
        assert embed(whole[: len(whole) * sixteenth // 16], KINDS[kind]) == (422, "image_corrupt"), sixteenth


NO_IMAGES = {
    "random bytes": np.random.default_rng(0).bytes(2000),
    "HTML": b"<!doctype html><img src=x onerror=alert(1)>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PDF": b"%PDF-1.7\n1 0 obj",
    "ZIP": b"PK\x03\x04" + bytes(100),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "Photoshop": b"8BPS\x00\x01" + bytes(100),
    "FITS": b"SIMPLE  =                    T" + bytes(100),
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    "AVIF": b"\x00\x00\x00\x20ftypavif" + bytes(100),
    **{kind: encoded(LARGE, kind) for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX")},
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_s03_s04_what_has_no_signature_of_three_formats_is_415_whatever_it_is_called(embed: Embed, case: str) -> None:
    for content_type in KINDS.values():
        assert embed(NO_IMAGES[case], content_type) == (415, "unsupported_image_type")


def palette_of(width: int, height: int) -> bytes:
    grey = png_of(width, height, 1, 0)
    (name, header), *rest = png_chunks(grey)
    return png([(name, header[:9] + b"\x03" + header[10:]), (b"PLTE", bytes(6)), *rest])


def interlaced_of(width: int, height: int) -> bytes:
    (name, header), *rest = png_chunks(png_of(width, height))
    return png([(name, header[:12] + b"\x01"), *rest])


@pytest.mark.parametrize("make", [png_of, palette_of, interlaced_of], ids=["one bit", "palette", "interlaced"])
def test_s05_a_bomb_of_pixels_is_refused_by_its_header(embed: Embed, make: Callable[[int, int], bytes]) -> None:
    bomb = make(13_000, 13_000)
    assert len(bomb) < 100_000
    assert embed(bomb) == (422, "too_many_pixels")
    assert embed(make(130, 130)) in (
        (200, ""),
        (422, "image_corrupt"),
    )  # as large as it says, or interlaced rows that are none


def lying(kind: str, width: int, height: int) -> bytes:
    image = bytearray(encoded(LARGE, kind))
    if kind == "PNG":
        (name, header), *rest = png_chunks(bytes(image))
        return png([(name, struct.pack(">II", width, height) + header[8:]), *rest])
    if kind == "JPEG":
        at = image.index(b"\xff\xc0")
        image[at + 5 : at + 9] = struct.pack(">HH", height, width)
        return bytes(image)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    body = b"WEBP" + extended + bytes(image[12:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", KINDS)
def test_s06_a_header_that_lies_about_the_size_allocates_nothing(embed: Embed, kind: str) -> None:
    status, code = embed(lying(kind, 65_500, 65_500), KINDS[kind])
    assert (status, code) in ((422, "too_many_pixels"), (422, "image_corrupt"))
    assert embed(lying(kind, 7_000, 7_000), KINDS[kind])[0] == 422  # within the limits, but there are no such pixels


def with_scans(scans: int) -> bytes:
    image = encoded(LARGE, "JPEG", progressive=True)
    start = image.index(b"\xff\xda")
    (length,) = struct.unpack(">H", image[start + 2 : start + 4])
    scan = image[start : start + 2 + length]  # its header alone
    return image[:start] + scan * (scans - image.count(b"\xff\xda")) + image[start:]


def test_s07_a_bomb_of_scans_is_refused_by_counting_them(embed: Embed) -> None:
    assert embed(encoded(LARGE, "JPEG", progressive=True), "image/jpeg") == (200, "")
    assert embed(with_scans(101), "image/jpeg") == (422, "too_many_scans")
    assert embed(with_scans(320_000), "image/jpeg") == (422, "too_many_scans")
    assert embed(with_scans(100), "image/jpeg")[1] != "too_many_scans"


def with_text_bomb(kind: bytes) -> bytes:
    packed = zlib.compress(bytes(50_000_000), 9)
    head = b"Comment\x00\x00" if kind == b"zTXt" else b"Comment\x00\x01\x00\x00\x00"
    first, *rest = png_chunks(encoded(LARGE))
    return png([first, *[(kind, head + packed)] * 20, *rest])


def with_app_segments(count: int) -> bytes:
    image = encoded(LARGE, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 65_535) + b"Exif\x00\x00" + bytes(65_535 - 8)
    return image[:2] + segment * count + image[2:]


def with_empty_segments(count: int) -> bytes:
    image = encoded(LARGE, "JPEG")
    return image[:2] + b"\xff\xef\x00\x02" * count + image[2:]


METADATA = {
    "zTXt bombs": (lambda: with_text_bomb(b"zTXt"), (422, "image_corrupt")),
    "iTXt bombs": (lambda: with_text_bomb(b"iTXt"), (422, "image_corrupt")),
    "100,000 chunks": (
        lambda: png(
            [*png_chunks(encoded(LARGE))[:1], *[(b"tEXt", b"a\x00b")] * 100_000, *png_chunks(encoded(LARGE))[1:]]
        ),
        (422, "too_many_chunks"),
    ),
    "APP segments": (lambda: with_app_segments(100), (200, "")),
    "5 million segments": (lambda: with_empty_segments(4_900_000), (422, "too_many_chunks")),
    "profile": (lambda: encoded(LARGE, "JPEG", icc_profile=bytes(5_000_000)), (200, "")),
    "XMP": (lambda: encoded(LARGE, "WEBP", xmp=b"<x>" * 1_000_000), (200, "")),
}


@pytest.mark.parametrize("case", METADATA)
def test_s08_metadata_of_any_size_costs_no_more_than_its_image_may(embed: Embed, case: str) -> None:
    make, answer = METADATA[case]
    assert embed(make(), within_s=10) == answer


def animated(kind: str, frames: int) -> bytes:
    file = io.BytesIO()
    rest = [Image.new("RGB", LARGE.size, (index % 256, 0, 0)) for index in range(frames - 1)]
    LARGE.save(
        file, kind, save_all=True, append_images=rest, duration=10, **({"lossless": True} if kind == "WEBP" else {})
    )
    return file.getvalue()


@pytest.mark.parametrize(("kind", "frames"), [("WEBP", 60), ("PNG", 60)])
def test_s09_of_an_animation_the_first_frame_is_embedded(
    embed: Embed, service: TestClient, kind: str, frames: int
) -> None:
    image = animated(kind, frames)
    assert embed(image, KINDS[kind]) == (200, "")
    still = encoded(LARGE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_allclose(vector(service, image), vector(service, still), atol=1e-6)


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
