import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.instants import read_instant, texts_between

ONE = "2024-07-14T18:33:22Z"


@pytest.mark.parametrize(
    "same",
    [
        "2024-07-14T20:33:22+02:00",
        "2024-07-14t18:33:22z",
        "2024-07-14 18:33:22Z",
        "2024-07-14T18:33:22",
        "2024-07-14T18:33:22.000Z",
        "2024-07-14T18:33:22-00:00",
        "2024-07-15T18:32:22+23:59",
        "2024-07-13T18:34:22-23:59",
        "2024-07-14T18:33:22.0000000009Z",
    ],
)
def test_u21_an_instant_is_the_same_however_it_is_written(same: str) -> None:
    assert read_instant(same) == read_instant(ONE)


def test_u21_instants_are_in_the_order_of_time() -> None:
    written = [
        "0001-01-01T00:00:00+23:59",
        "0001-01-01",
        "1969-12-31T23:59:59.5Z",
        "2024-02-29",
        "2024-02-29T00:00:00.000000001Z",
        "2024-02-29T00:00:00.1+00:00",
        "2024-02-29T00:00:00.25Z",
        "2024-03-01T03:00:00+05:30",
        "2024-02-29T22:30:00Z",
        "2016-12-31T23:59:60Z",
        "9999-12-31T23:59:59.999999999-23:59",
    ]
    instants = [read_instant(text) for text in sorted(written, key=lambda text: read_instant(text) or 0)]
    assert instants == sorted(set(instants), key=lambda each: each or 0)
    assert read_instant("2016-12-31T23:59:60Z") == read_instant("2017-01-01")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024",
        "2024-07",
        "2024-7-14",
        "20240714",
        "2024-02-30",
        "2023-02-29",
        "2024-13-01",
        "0000-01-01",
        "2024-07-14T",
        "2024-07-14T18",
        "2024-07-14T18:33Z",
        "2024-07-14T24:00:00Z",
        "2024-07-14T18:60:00Z",
        "2024-07-14T18:33:61Z",
        "2024-07-14T18:33:22.Z",
        "2024-07-14T18:33:22,5Z",
        "2024-07-14T18:33:22+2",
        "2024-07-14T18:33:22+24:00",
        "2024-07-14T18:33:22+0200",
        "2024:07:14 18:33:22",
        "2024-07-14Z",
        " 2024-07-14",
        "2024-07-14\n",
        "２０２４-07-14",
        "now",
    ],
)
def test_u21_what_is_no_instant_is_none(text: str) -> None:
    assert read_instant(text) is None


@given(
    st.datetimes(datetime.datetime(1, 1, 3), datetime.datetime(9999, 12, 28)),
    st.integers(-1439, 1439),
    st.integers(0, 3 * 10**14),
)
def test_u21_an_instant_lies_between_the_texts_that_it_is_looked_for_between(
    local: datetime.datetime, offset: int, before: int
) -> None:
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    text = f"{local.isoformat()}{sign}{hours:02}:{minutes:02}"
    instant = read_instant(text)
    assert instant is not None
    passed = local - datetime.timedelta(minutes=offset) - datetime.datetime(1, 1, 1)
    assert instant == (passed // datetime.timedelta(microseconds=1)) * 1000 + 86_400 * 10**9
    for least, most in ((instant - before, instant + before), (None, instant), (instant, None), (None, None)):
        first, last = texts_between(least, most)
        assert first <= text < last
