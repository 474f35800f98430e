"""Runs under variables of a launcher: joined, ignored or refused, and never without the lock of their directory."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from runs import KEYS, exit_code, newest_step, rows, run, started

IO, CONFIG = 74, 78


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def command(digits: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(digits), "--out", str(out), *KEYS, "max_steps=2", *more]


def ended(arguments: list[str], log: Path, environment: dict[str, str]) -> tuple[int, str]:
    log.unlink(missing_ok=True)
    with started(arguments, log, environment) as process:
        return exit_code(process), log.read_text()


def test_u04_a_rank_that_is_left_in_the_environment_skips_neither_artifact_nor_lock(
    digits: Path, tmp_path: Path, log: Path
) -> None:
    out = tmp_path / "run"
    code, said = ended(command(digits, out), log, {"RANK": "1", "NODE_RANK": "1", "SLURM_PROCID": "3"})
    assert code == 0, said
    assert "ignoring RANK=1, NODE_RANK=1, SLURM_PROCID=3: no launcher" in said
    assert "the artifact is" in said
    assert (out / "artifact" / "manifest.json").exists()
    before = sorted(path.name for path in (out / "checkpoints").iterdir())
    code, said = ended(command(digits, out, "max_steps=9"), log, {"RANK": "1"})
    assert code == IO
    assert "holds a run" in said
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == before


def test_u04_the_world_of_torchrun_is_joined_without_being_named_again_and_can_be_left(
    digits: Path, tmp_path: Path, log: Path
) -> None:
    """The second time, without a launcher, the run starts its second process itself."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
        world |= {"MASTER_PORT": str(free.getsockname()[1])}
    with ExitStack() as both:
        ranks = [
            both.enter_context(
                started(
                    command(digits, out, "devices=auto"),
                    log,
                    world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
            )
            for rank in range(2)
        ]
        assert [exit_code(rank) for rank in ranks] == [0, 0], log.read_text()
    assert log.read_text().count("the artifact is") == 1
    assert "process 1 of 2, by torchrun" in log.read_text()
    assert newest_step(out) == 2
    assert len(rows(out)) == 3
    shutil.rmtree(out / "artifact")
    assert run(command(digits, out, "devices=2", "--resume"), log) == 0, log.read_text()


def test_u04_contradictions_and_a_port_in_use_are_one_sentence_and_leave_nothing(
    digits: Path, tmp_path: Path, log: Path
) -> None:
    out = tmp_path / "run"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for environment, keys, expected in (
            (meeting | {"RANK": "0", "WORLD_SIZE": "2"}, ["devices=auto"], IO),
            (meeting, ["devices=2"], IO),
            (meeting | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, ["devices=1"], CONFIG),
            (meeting | {"RANK": "2", "WORLD_SIZE": "2"}, ["devices=auto"], CONFIG),
            ({"RANK": "second"}, [], CONFIG),
        ):
            code, said = ended(command(digits, out, *keys), log, environment)
            assert code == expected, said
            assert said.splitlines()[-1].startswith("dinodex: ")
            assert "Traceback" not in said
            assert not out.exists()
