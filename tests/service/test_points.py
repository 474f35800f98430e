import subprocess
import sys

import numpy as np
import pytest

from service.errors import (
    DimensionMismatch,
    InvalidId,
    InvalidLabel,
    InvalidName,
    InvalidPayload,
    InvalidSource,
    InvalidVector,
)
from service.points import (
    Source,
    check_collection_name,
    check_id,
    check_label,
    check_source,
    hash_image,
    hash_vector,
    kept_time,
    unit_rows,
)
from service.store.payloads import MAX_PAYLOAD_BYTES, encode_payload


@pytest.mark.parametrize(
    "good", ["a", "x" * 512, "a/b.png", "../x", "scroll", "'; DROP TABLE points; --", "日本 🙂", " "]
)
def test_an_id_is_any_text_of_1_to_512_characters(good: str) -> None:
    assert check_id(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\0b", "a\nb", "\x7f", "\x85", "\ud800", 5, None, ["a"]])
def test_an_id_that_is_empty_long_or_holds_control_characters_is_refused(bad: object) -> None:
    with pytest.raises(InvalidId):
        check_id(bad)


def test_a_label_follows_the_rule_of_ids_and_may_be_absent() -> None:
    assert check_label(None) is None
    assert check_label("x" * 512) == "x" * 512
    for bad in ("", "x" * 513, "a\tb", 3):
        with pytest.raises(InvalidLabel):
            check_label(bad)


@pytest.mark.parametrize("good", ["a", "A-b_c.9", "0", "x" * 128])
def test_a_collection_name_is_safe_in_a_url(good: str) -> None:
    assert check_collection_name(good) == good


@pytest.mark.parametrize("bad", ["", "x" * 129, ".", "..", "-a", "a/b", "a b", "a\n", "é", 5, None])
def test_a_collection_name_outside_the_rule_is_refused(bad: object) -> None:
    with pytest.raises(InvalidName):
        check_collection_name(bad)


def test_a_payload_keeps_what_json_can_say() -> None:
    assert encode_payload(None) is None
    assert encode_payload({"a": [1, 2.5, None, True, {"é": "\n"}]}) == '{"a":[1,2.5,null,true,{"é":"\\n"}]}'
    assert encode_payload({"n": 10**30}) == '{"n":' + "1" + "0" * 30 + "}"


def test_a_payload_up_to_64_kib_is_kept_and_one_byte_more_is_not() -> None:
    frame = len('{"a":""}')
    assert encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame)}) is not None
    with pytest.raises(InvalidPayload):
        encode_payload({"a": "x" * (MAX_PAYLOAD_BYTES - frame + 1)})


def nested(levels: int) -> object:
    return {"a": nested(levels - 1)} if levels else 1


def test_a_payload_may_be_32_levels_deep_and_no_deeper() -> None:
    assert encode_payload(nested(32)) is not None
    for levels in (33, 900):
        with pytest.raises(InvalidPayload):
            encode_payload(nested(levels))


@pytest.mark.parametrize(
    "bad",
    [
        *([1], "x", 5, {"a": float("nan")}, {"a": float("inf")}, {"a": "\ud800"}, {"\ud800": 1}, {"a": "x\0"}, {1: 2}),
        *({"a": object()}, {"a": 10**5000}, {"a": {1, 2}}, {"a": b"x"}),
    ],
)
def test_a_payload_that_is_no_json_object_is_refused(bad: object) -> None:
    with pytest.raises(InvalidPayload):
        encode_payload(bad)


def test_a_source_must_be_text_and_numbers_that_sqlite_can_hold() -> None:
    good = Source("a/b.png", 2**63 - 1, -1)
    assert check_source(good) is good
    assert check_source(None) is None
    for bad in (Source("\udcff.png", 1, 1), Source("", 1, 1), Source("a", 2**63, 1), Source("a", -1, 1)):
        with pytest.raises(InvalidSource):
            check_source(bad)


def test_u17_a_time_of_any_size_fits_the_store_and_another_one_is_another() -> None:
    times = [
        0,
        -1,
        1_700_000_000 * 10**9,
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        10_500_000_000 * 10**9,
        253_402_300_800 * 10**9,
    ]
    kept = [kept_time(time_ns) for time_ns in times]
    assert kept[:4] == times[:4]  # those that fit stay as they are
    assert all(check_source(Source("a", 1, each)) is not None for each in kept)
    for time_ns in times:
        assert kept_time(time_ns) != kept_time(time_ns + 1)


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300, 5e-324])
def test_a_vector_of_any_length_becomes_a_unit_vector(scale: float) -> None:
    unit = unit_rows([[3 * scale, -4 * scale, 0.0]], 3)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    if scale != 5e-324:  # there the ratio itself is rounded
        np.testing.assert_allclose(unit[0], [0.6, -0.8, 0], atol=1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_vector_that_is_not_finite_is_refused_by_its_index(number: float) -> None:
    with pytest.raises(InvalidVector, match="vector 1 "):
        unit_rows([[1.0, 0.0], [number, 1.0]], 2)


def test_a_zero_vector_is_refused_by_its_index_in_the_request() -> None:
    with pytest.raises(InvalidVector, match="vector 7 "):
        unit_rows([[1.0, 0.0], [0.0, 0.0]], 2, [3, 7])


@pytest.mark.parametrize("bad", ["ab", ["a", "b"], [[1.0], [2.0, 3.0]], [None, 1.0], [10**400, 1], [True, False], {}])
def test_a_vector_that_is_no_list_of_numbers_is_refused(bad: object) -> None:
    with pytest.raises(InvalidVector):
        unit_rows([bad], 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], 1.0])
def test_a_vector_of_another_dimension_is_refused(bad: object) -> None:
    with pytest.raises(DimensionMismatch, match="2 numbers"):
        unit_rows([bad], 2)  # type: ignore[arg-type]


def test_a_content_hash_depends_on_the_kind_of_content_and_on_every_number() -> None:
    vector = np.array([1.0, 2.0], np.float32)
    assert hash_vector(vector) == hash_vector([1, 2]) != hash_vector([1, 2.5])
    assert hash_image(vector.tobytes()) != hash_vector(vector)


def test_importing_the_package_brings_neither_torch_nor_faiss_nor_fastapi() -> None:
    code = (
        "import service, service.points, service.errors, sys; print({'torch', 'faiss', 'fastapi'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
