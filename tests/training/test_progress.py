from __future__ import annotations

import io

import pytest
from rich.console import Console

from training import progress
from training.progress import Reporter


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    """A reporter into a file, which never waits for its next line."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    return Reporter(Console(file=screen, width=200))


def test_a_line_tells_losses_score_speed_and_memory(lines: Reporter, screen: io.StringIO) -> None:
    values = {
        "loss": 6.5,
        "dino": 6.25,
        "ibot": 0.125,
        "koleo": -0.5,
        "knn": 0.571,
        "images_per_s": 1234.5,
        "memory_gib": 1.24,
    }
    with lines:
        lines.show(0.25, 40, {**values, "lr": 1e-3})
    assert screen.getvalue() == (
        "step 40 (25%): loss 6.500  dino 6.250  ibot 0.125  koleo -0.500  knn 57.1%  images/s 1234  memory 1.2 GiB\n"
    )


def test_without_labels_it_tells_the_recall_between_two_views(lines: Reporter, screen: io.StringIO) -> None:
    lines.show(0.5, 1, {"loss": 1.0, "two_view_recall": 0.43})
    assert "two-view 43.0%" in screen.getvalue()
    assert "knn" not in screen.getvalue()


@pytest.mark.parametrize(("share", "shown"), [(0.0, ""), (0.049, ""), (0.05, "data wait 5%"), (0.5, "data wait 50%")])
def test_waiting_for_images_is_told_where_it_is_worth_acting_on(
    lines: Reporter, screen: io.StringIO, share: float, shown: str
) -> None:
    lines.show(0.5, 1, {"loss": 1.0, "data_wait": share})
    assert ("data wait" in screen.getvalue()) == bool(shown)
    assert shown in screen.getvalue()


def test_losses_that_the_recipe_leaves_out_are_not_told(lines: Reporter, screen: io.StringIO) -> None:
    lines.show(0.5, 1, {"loss": 1.0, "ibot": 0.0, "koleo": 0.0, "dino": 0.0})
    assert screen.getvalue() == "step 1 (50%): loss 1.000  dino 0.000\n"


def test_a_score_stays_until_the_next(lines: Reporter, screen: io.StringIO) -> None:
    lines.show(0.1, 1, {"loss": 3.0, "knn": 0.5})
    lines.show(0.2, 2, {"loss": 2.0, "knn": None})
    assert screen.getvalue().splitlines()[1] == "step 2 (20%): loss 2.000  knn 50.0%"


def test_lines_in_a_file_come_now_and_then_and_at_the_end(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    reporter = Reporter(Console(file=screen, width=200))
    for step, now in enumerate([0.0, 14.9, 15.1, 20.0, 21.0]):
        clock[0] = now
        reporter.show(1.0 if step == 4 else step / 10, step, {"loss": 1.0})
    assert [line.split()[1] for line in screen.getvalue().splitlines()] == ["0", "2", "4"]


def test_a_terminal_gets_a_bar_and_keeps_the_lines_above_it(screen: io.StringIO) -> None:
    reporter = Reporter(Console(file=screen, width=200, force_terminal=True, highlight=False))
    with reporter:
        reporter.show(0.5, 1, {"loss": 1.5, "two_view_recall": 0.25})
        reporter.say("a [line] of text")
    assert "50%" in screen.getvalue()
    assert "loss 1.500  two-view 25.0%" in screen.getvalue()
    assert "a [line] of text" in screen.getvalue()
