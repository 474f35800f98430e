from __future__ import annotations

from itertools import chain, islice

import pytest

from training.sampling import Batches, epoch_order


def first(batches: Batches, count: int) -> list[list[tuple[int, int]]]:
    return list(islice(batches, count))


def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch() -> None:
    batches = Batches(images=23, batch_size=5, seed=0)
    assert batches.steps_per_epoch == 4
    shown = list(chain(*first(batches, 4)))
    assert {epoch for epoch, _ in shown} == {0}
    assert len({index for _, index in shown}) == 20


def test_epochs_differ_in_order_and_over_some_of_them_every_image_is_shown() -> None:
    assert list(epoch_order(0, 0, 50)) != list(epoch_order(0, 1, 50)) != list(epoch_order(1, 1, 50))
    shown = {index for _, index in chain(*first(Batches(23, 5, seed=0), 20))}
    assert shown == set(range(23))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11])
def test_a_stream_from_any_step_on_is_the_rest_of_the_whole_stream(start: int) -> None:
    whole = first(Batches(23, 5, seed=2), 15)
    assert first(Batches(23, 5, seed=2, start_step=start), 15 - start) == whole[start:]


def test_the_ranks_together_see_what_one_process_would() -> None:
    one = first(Batches(23, 6, seed=3), 7)
    three = [first(Batches(23, 6, seed=3, rank=r, world=3), 7) for r in range(3)]
    for step, batch in enumerate(one):
        parts = [three[r][step] for r in range(3)]
        assert all(len(part) == 2 for part in parts)
        assert [parts[i % 3][i // 3] for i in range(6)] == batch


@pytest.mark.parametrize(("images", "batch_size", "world"), [(4, 5, 1), (4, 0, 1), (9, 5, 2)])
def test_a_batch_that_does_not_fit_is_refused(images: int, batch_size: int, world: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Batches(images, batch_size, 0, world=world)


def test_a_batch_as_large_as_the_set_fits() -> None:
    assert len(first(Batches(4, 4, seed=0), 1)[0]) == 4
