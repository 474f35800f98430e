from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from backbone.decode import ALL_FORMATS, SERVICE_FORMATS, DecodeLimits
from backbone.value_range import ValueRange
from service.errors import SettingsInvalid
from service.settings import Settings, load_settings

NEEDED = {"artifact": Path("a"), "data": Path("d")}


def test_the_environment_fills_what_the_command_line_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINODEX_PORT", "9000")
    monkeypatch.setenv("DINODEX_HOST", "::1")
    settings = load_settings(**NEEDED, host="127.0.0.2", port=None)
    assert (settings.port, settings.host) == (9000, "127.0.0.2")


def test_a_missing_artifact_is_named_by_its_variable() -> None:
    with pytest.raises(SettingsInvalid, match="DINODEX_ARTIFACT: Field required"):
        load_settings(data=Path("d"))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("port", 65535, 65536),
        ("batch_images", 1, 0),
        ("batch_wait_ms", 0, -1),
        ("thumbnail_px", 16, 15),
        ("max_body_bytes", 1, 0),
        ("drain_s", 0, -1),
    ],
)
def test_each_limit_has_two_sides(name: str, good: int, bad: int) -> None:
    assert getattr(load_settings(**NEEDED, **{name: good}), name) == good
    with pytest.raises(SettingsInvalid, match=name.upper()):
        load_settings(**NEEDED, **{name: bad})


def test_the_limits_of_an_image_are_those_of_the_settings_and_its_formats_those_of_strangers_or_named_ones() -> None:
    settings = load_settings(
        **NEEDED, max_image_bytes=1_000_000, max_pixels=2_000_000, max_side=3_000, max_scans=4, max_chunks=500
    )
    limits = DecodeLimits(1_000_000, 2_000_000, 3_000, max_scans=4, max_chunks=500, formats=SERVICE_FORMATS)
    assert settings.decode_limits() == limits
    assert settings.decode_limits(ALL_FORMATS) == replace(limits, formats=ALL_FORMATS)


def test_u06_the_formats_that_strangers_may_send_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINODEX_FORMATS", "jpg, png,avif")
    assert load_settings(**NEEDED).decode_limits().formats == ("JPEG", "PNG", "AVIF")
    for text, problem in (
        ("jpeg,svg", "'svg' is not one of jpeg, png, webp, tiff, bmp, gif, avif, heic"),
        (" ", "is not one of"),
    ):
        with pytest.raises(SettingsInvalid, match=f"DINODEX_FORMATS.*{problem}"):
            load_settings(**NEEDED, formats=text)
    monkeypatch.setattr("backbone.formats.INSTALLED_FORMATS", ALL_FORMATS)
    with pytest.raises(SettingsInvalid, match=r"'heic' needs a decoder .*dinodex\[heif\]"):
        load_settings(**NEEDED, formats="jpeg,heic")


def test_u16_a_range_of_values_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(**NEEDED).value_range is None
    monkeypatch.setenv("DINODEX_VALUE_RANGE", "0:4095")
    assert load_settings(**NEEDED).value_range == ValueRange(0, 4095)
    assert load_settings(**NEEDED, value_range=ValueRange(1, 2)).value_range == ValueRange(1, 2)
    with pytest.raises(SettingsInvalid, match=r"DINODEX_VALUE_RANGE.*give low:high, for instance 0:4095"):
        load_settings(**NEEDED, value_range="bright")


def test_a_request_larger_than_the_queue_is_refused_at_the_start() -> None:
    assert load_settings(**NEEDED, queue_images=64, max_request_images=64).queue_images == 64
    with pytest.raises(SettingsInvalid, match="never be admitted"):
        load_settings(**NEEDED, queue_images=64, max_request_images=65)


def test_a_key_comes_from_the_variable_or_from_a_file_but_not_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    assert load_settings(**NEEDED).key() is None
    assert load_settings(**NEEDED, api_key_file=file).key() == b"from-file"
    monkeypatch.setenv("DINODEX_API_KEY", "from-variable")
    assert load_settings(**NEEDED).key() == b"from-variable"
    with pytest.raises(SettingsInvalid, match="keep one of them"):
        load_settings(**NEEDED, api_key_file=file).key()


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_key_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(SettingsInvalid, match="empty"):
        load_settings(**NEEDED, api_key_file=file).key()


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_settings(**NEEDED, api_key_file=tmp_path / "none").key()


def test_the_key_shows_neither_in_the_settings_text_nor_in_an_error() -> None:
    secret = "-".join(["very", "secret"])  # put together here, so that the traceback's source lines do not hold it
    settings = load_settings(**NEEDED, api_key=secret)
    assert secret not in repr(settings)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(**NEEDED, port=secret)
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org")),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert load_settings(**NEEDED, host=host).is_loopback() is loopback


def test_every_setting_says_its_default_and_the_reason() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description is not None, name
        assert "Default:" in field.description, name
