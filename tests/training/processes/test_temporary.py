from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backbone.errors import StorageFailed
from training.processes import temporary
from training.processes.temporary import LONGEST, ensure_short_directory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short path, however deep those of a test run lie."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Begin with this TMPDIR, as a process does."""

    def begin(given: object) -> None:
        monkeypatch.setenv("TMPDIR", str(given))
        monkeypatch.setattr(tempfile, "tempdir", None)

    return begin


def directory_of(length: int, parent: Path) -> Path:
    """A new directory whose path has so many bytes."""
    path = parent / ("x" * (length - len(os.fsencode(parent)) - 1))
    path.mkdir()
    assert len(os.fsencode(path)) == length
    return path


def test_u12_a_temporary_directory_that_is_too_long_is_replaced_by_a_private_one(
    use: Callable[[object], None], tmp_path: Path
) -> None:
    long = directory_of(LONGEST + 1, tmp_path)
    use(long)
    said: list[str] = []
    ensure_short_directory(said.append)
    short = Path(tempfile.gettempdir())
    assert said == [
        f"the temporary directory {long} is too long for a socket; using {short} instead, until the run ends"
    ]
    assert os.environ["TMPDIR"] == str(short), "of the processes that are started, too"
    assert stat.S_IMODE(short.stat().st_mode) == 0o700
    assert len(str(short)) <= LONGEST
    ensure_short_directory(said.append)
    assert len(said) == 1
    short.rmdir()


def test_u12_the_longest_that_leaves_room_is_left_alone(use: Callable[[object], None], tmp_path: Path) -> None:
    fits = directory_of(LONGEST, tmp_path)
    use(fits)
    ensure_short_directory(pytest.fail)
    assert tempfile.gettempdir() == str(fits)


@pytest.mark.parametrize("given", ["not/there", "/dev/null", "below"])
def test_u12_one_that_is_not_there_is_no_directory_or_is_relative_is_no_trouble(
    use: Callable[[object], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("below").mkdir()
    use(given)
    ensure_short_directory(pytest.fail)
    assert Path(tempfile.gettempdir()).is_absolute()


def test_u12_where_none_can_be_written_it_is_one_sentence(
    use: Callable[[object], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(tmp_path)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(StorageFailed, match="set TMPDIR"):
        ensure_short_directory(print)
    monkeypatch.setattr(tempfile, "tempdir", str(directory_of(LONGEST + 1, tmp_path)))
    monkeypatch.setattr(temporary, "_ELSEWHERE", (str(tmp_path / "gone"),))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(StorageFailed, match=f"at most {LONGEST} bytes"):
        ensure_short_directory(print)


def test_u12_the_private_directory_is_gone_with_its_process(tmp_path: Path) -> None:
    program = (
        "import tempfile; from training.processes.temporary import ensure_short_directory\n"
        "ensure_short_directory(print); print(tempfile.gettempdir())"
    )
    long = directory_of(LONGEST + 1, tmp_path)
    environment = os.environ | {"TMPDIR": str(long)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    made = Path(done.stdout.splitlines()[-1])
    assert made.name.startswith("dinodex-")
    assert not made.exists()
