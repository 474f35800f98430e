import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.index.row_set import RowSet
from service.index.segments import Segment
from service.points import unit_rows

SEGMENT_ROWS = np.arange(10, 410, 4)  # 100 rows, with gaps
numbers = st.sets(st.integers(1, 450), max_size=120).map(lambda rows: np.array(sorted(rows), np.int64))


def segment(fixed: bool = True) -> Segment:
    vectors = unit_rows(np.random.default_rng(0).normal(size=(len(SEGMENT_ROWS), 4)), 4)
    return Segment(vectors, SEGMENT_ROWS, len(SEGMENT_ROWS), fixed=fixed)


@given(numbers)
def test_rows_are_found_where_they_stand_and_others_are_left_out(rows: np.ndarray) -> None:
    selected = RowSet(rows).within(segment())
    expected = np.flatnonzero(np.isin(SEGMENT_ROWS, rows))
    np.testing.assert_array_equal(selected.positions(), expected)
    np.testing.assert_array_equal(np.unpackbits(selected.bitmap(), count=100, bitorder="little").nonzero()[0], expected)
    assert len(selected) == len(expected)


@given(numbers, numbers, st.data())
def test_a_set_that_is_brought_up_to_date_equals_one_made_anew(
    before: np.ndarray, changed: np.ndarray, data: st.DataObject
) -> None:
    selected = np.array([r for r in changed if data.draw(st.booleans())], np.int64)
    main = segment()
    rows = RowSet(before)
    rows.within(main)
    after = rows.changed(changed, selected)
    expected = np.union1d(np.setdiff1d(before, changed), selected)
    np.testing.assert_array_equal(after.rows, expected)
    np.testing.assert_array_equal(after.within(main).positions(), RowSet(expected).within(main).positions())
    np.testing.assert_array_equal(rows.within(main).positions(), RowSet(before).within(main).positions())


def test_what_is_remembered_of_one_main_segment_is_not_used_for_another() -> None:
    rows = RowSet(np.array([10, 14]))
    assert rows.within(segment()).positions().tolist() == [0, 1]
    other = Segment(np.eye(4, dtype=np.float32), np.array([11, 12, 13, 14]), 4, fixed=True)
    assert rows.within(other).positions().tolist() == [3]
