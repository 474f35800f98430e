"""Images that a fuzzer damages, sent to a service as it is run. Found cases lie in corpus/decode, and are replayed first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.figures import FIGURES
from faults.fuzzing import CORPUS, Victim, fuzz
from hypothesis import strategies as st
from pictures import encoded, picture
from processes import service_process

from backbone import Artifact

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
WHOLE = [
    *(encoded(picture(64, 48), kind) for kind in KINDS),
    encoded(picture(64, 48), "JPEG", progressive=True),
    encoded(picture(64, 48).convert("CMYK"), "JPEG"),
    encoded(picture(64, 48).convert("P")),
    encoded(picture(64, 48).convert("RGBA"), "WEBP", lossless=True),
]


@pytest.fixture(scope="module")
def victim(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("fuzz")
    options = {"allow_anonymous": 1, "decode_workers": 1, "runtime": "openvino", "threads": 1}
    with service_process(tiny_artifact.path, folder / "data", folder / "log", **options) as service:
        victim = Victim(service)
        yield victim
        victim.close()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image of which a few places are overwritten, cut out, doubled or inserted."""
    body = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(body)))
        removed = draw(st.integers(0, 64))
        put = draw(
            st.one_of(st.binary(max_size=64), st.just(bytes(body[start : start + 64]) * draw(st.integers(0, 9))))
        )
        body[start : start + removed] = put
    return bytes(body)


def test_found_images_are_answered(victim: Victim) -> None:
    cases = sorted((CORPUS / "decode").iterdir())
    assert cases
    for case in cases:
        for content_type in KINDS.values():
            victim.send(case.read_bytes(), content_type)
        victim.is_as_before()


def test_whatever_an_image_is_changed_to_the_service_answers_and_stays_as_it_was(victim: Victim) -> None:
    images = st.one_of(damaged(), damaged(), st.binary(max_size=4096))
    tried = fuzz(images, lambda body: victim.send(body, "image/jpeg"), victim.is_as_before)
    FIGURES.append(f"fuzzed images: {tried} answered with 200 or 4xx, good ones as before")
