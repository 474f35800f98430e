"""Formats by their first bytes, their names, and what is missing to read them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pictures import encoded, picture

from backbone.decode import DecodeLimits, decode
from backbone.errors import DataInvalid, UnsupportedImageType
from backbone.formats import ALL_FORMATS, KNOWN_FORMATS, SERVICE_FORMATS, formats_named, hint_for, image_format
from backbone.listing import list_images


def brands(major: bytes, *others: bytes) -> bytes:
    return (16 + 4 * len(others)).to_bytes(4, "big") + b"ftyp" + major + bytes(4) + b"".join(others) + bytes(40)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (brands(b"avif", b"mif1"), "AVIF"),
        (brands(b"avis", b"msf1"), "AVIF"),
        (brands(b"mif1", b"miaf", b"avif"), "AVIF"),
        (brands(b"heic", b"mif1"), "HEIC"),
        (brands(b"heix"), "HEIC"),
        (brands(b"hevc", b"msf1"), "HEIC"),
        (brands(b"mif1", b"heic"), "HEIC"),
        (brands(b"msf1", b"hevc"), "HEIC"),
        (brands(b"mif1", b"jpeg"), None),  # another codec in the same container
        (brands(b"mif1") + b"heic", None),  # behind the brands
        (brands(b"mp42", b"isom", b"heic"), None),  # a video
        (brands(b"qt  "), None),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(40), None),  # JPEG 2000
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(40), None),
        (b"II+\x00\x08\x00\x00\x00", "TIFF"),
        (b"MM\x00+\x00\x08\x00\x00", "TIFF"),
        (b"\x00\x00\x00\x18ftyp", None),
    ],
)
def test_u06_a_format_is_told_by_its_brands(data: bytes, name: str | None) -> None:
    assert image_format(data) == name


def test_formats_are_named_in_any_case_and_jpeg_by_both_names() -> None:
    assert formats_named("jpg, PNG,tiff") == ("JPEG", "PNG", "TIFF")
    for text in ("", "jpeg,", "svg", "raw", "jxl"):
        with pytest.raises(ValueError, match="is not one of jpeg, png"):
            formats_named(text)
    assert set(KNOWN_FORMATS) - set(ALL_FORMATS) == {"AVIF", "HEIC"}


def test_s04_u06_bytes_of_a_format_that_is_not_taken_are_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    heic = brands(b"heic", b"mif1")  # as phones' pictures are under the names of JPEGs
    with pytest.raises(
        UnsupportedImageType, match=r"these bytes are HEIC, which is not .* accepted are JPEG, PNG, WEBP\.$"
    ):
        decode(heic, DecodeLimits(formats=SERVICE_FORMATS))
    with pytest.raises(UnsupportedImageType, match="these bytes are not an accepted image type"):
        decode(brands(b"qt  "), DecodeLimits(formats=SERVICE_FORMATS))
    monkeypatch.setattr(sys.modules["backbone.decode"], "INSTALLED_FORMATS", ALL_FORMATS)
    with pytest.raises(UnsupportedImageType, match=r"HEIC is read after pip install 'dinodex\[heif\]'"):
        decode(heic, DecodeLimits(formats=ALL_FORMATS))


def test_u06_where_no_decoder_is_installed_a_person_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IMG_0.HEIC", "IMG_1.heif", "IMG_2.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"ftyp")
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    monkeypatch.setattr("backbone.formats.INSTALLED_FORMATS", ALL_FORMATS)
    notes = list_images(tmp_path, formats=ALL_FORMATS).notes
    assert notes[0] == "left out: 2 .heic, 1 .heif, 1 .txt"
    assert notes[1:] == tuple(f"{each} files are read after pip install 'dinodex[heif]'" for each in (".heic", ".heif"))
    with pytest.raises(
        ValueError, match=r"'heic' needs a decoder that is not installed; pip install 'dinodex\[heif\]'"
    ):
        formats_named("jpeg,heic")
    assert formats_named("jpeg,heic", read_here=False) == ("JPEG", "HEIC")  # a service may have the decoder
    assert list_images(tmp_path, formats=SERVICE_FORMATS).notes == notes[:1]
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        DataInvalid, match=r"left out: 2 \.heic, 1 \.heif, 1 \.txt; \.heic files are read after pip install"
    ):
        list_images(tmp_path, formats=ALL_FORMATS)
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setattr("backbone.formats.INSTALLED_FORMATS", KNOWN_FORMATS)
    assert hint_for(".heic") is None
    assert hint_for(".svg") is None
    assert formats_named("heic,avif") == ("HEIC", "AVIF")
    listed = list_images(tmp_path, formats=KNOWN_FORMATS)
    assert [image.id for image in listed.images] == ["IMG_0.HEIC", "IMG_1.heif", "IMG_2.HEIC", "a.png"]
    assert listed.notes == ("left out: 1 .txt",)
