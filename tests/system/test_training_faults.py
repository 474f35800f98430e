"""What can befall a whole training process, and that the run goes on as if nothing had happened, or stops and says why."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from pictures import encoded, png_of
from PIL import Image
from runs import (
    KEYS,
    assert_equal_runs,
    exit_code,
    newest_step,
    rows,
    run,
    run_ranks,
    session,
    started,
    started_ranks,
    wait_until,
)

from training.checkpoints import checkpoint_files, checkpoint_path, newest_valid, read_checkpoint

STEPS = "max_steps=24"
ENDLESS = "max_steps=100000"  # for those that are stopped and never resumed
BAD_DATA, IO, LOCKED, CONFIG, TERMINATED, KILLED = 65, 74, 75, 78, 143, -9


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(command(digits, folder / "run"), folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture(scope="module")
def whole_of_two(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole-of-two")
    assert run_ranks(command(digits, folder / "run"), folder / "log") == [0, 0], (folder / "log").read_text()
    return folder / "run"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def command(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", str(data), "--out", str(out), *KEYS, STEPS, *more]


def in_the_middle(out: Path) -> Callable[[], bool]:
    """Some steps are saved, and most are still to come."""
    return lambda: newest_step(out) >= 3


def send(process: int | None, number: signal.Signals) -> None:
    assert process is not None
    os.kill(process, number)


def others(leader: int | None) -> list[int]:
    return [process for process in session(leader) if process != leader]


# T01


@pytest.mark.parametrize("workers", [0, 4])
def test_t01_a_killed_run_goes_on_to_the_same_bits(
    digits: Path, out: Path, log: Path, whole: Path, workers: int
) -> None:
    """Killed twice, resumed at once, and the second time with other workers."""
    first = command(digits, out, f"workers={workers}")
    with started(first, log) as process:
        wait_until(in_the_middle(out), process)
        send(process.pid, signal.SIGKILL)
        assert exit_code(process) == KILLED
        seen = newest_step(out)
        with started([*first, "--resume"], log) as again:
            wait_until(lambda: newest_step(out) > seen, again)
            send(again.pid, signal.SIGKILL)
            assert exit_code(again) == KILLED
    assert run(command(digits, out, f"workers={2 - workers // 2}", "--resume"), log) == 0, log.read_text()
    assert_equal_runs(out, whole)


def test_t01_two_killed_processes_go_on_to_the_same_bits(
    digits: Path, out: Path, log: Path, whole_of_two: Path
) -> None:
    with started_ranks(command(digits, out), log) as ranks:
        wait_until(in_the_middle(out), ranks[0])
        for process in ranks:
            send(process.pid, signal.SIGKILL)
    assert run_ranks(command(digits, out, "--resume"), log) == [0, 0], log.read_text()
    assert_equal_runs(out, whole_of_two)


# T03 and T18: full disks


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, of which one can use up every byte."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def test_t03_a_full_disk_keeps_the_last_checkpoint_and_ends_the_run_the_third_time(
    digits: Path, tmp_path: Path, log: Path, whole: Path
) -> None:
    with small_disk(tmp_path / "disk", megabytes=40) as disk:
        out = disk / "run"
        with started(command(digits, out, "checkpoint_every_s=0"), log) as process:
            wait_until(in_the_middle(out), process)
            filler = fill(disk)
            assert exit_code(process) == IO
        said = log.read_text()
        assert said.count("the run goes on: cannot write") >= 2
        assert "dinodex: cannot write" in said
        assert "No space left on device" in said
        assert "Traceback" not in said
        assert newest_valid(out / "checkpoints").step >= 3
        filler.unlink()
        assert run(command(digits, out, "--resume"), log) == 0, log.read_text()
        assert not list(out.rglob(".*.tmp"))
        assert_equal_runs(out, whole)


# Files of at most a megabyte, which needs no disk of its own: the metrics fit in, a checkpoint does not.
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))"


def test_t03_the_third_refused_checkpoint_in_a_row_ends_the_run(
    digits: Path, out: Path, log: Path, whole: Path
) -> None:
    assert run(command(digits, out, "checkpoint_every_s=0"), log, before=SMALL_FILES) == IO
    said = log.read_text()
    assert said.count("no checkpoint at step") == 2
    assert "Traceback" not in said
    assert [row["step"] for row in rows(out)] == ["0", "1", "2", "3"]
    assert run(command(digits, out, "--resume"), log) == 0, log.read_text()
    assert_equal_runs(out, whole)


def test_t18_a_disk_too_full_for_metrics_does_not_stop_a_run(
    digits: Path, tmp_path: Path, log: Path, whole: Path
) -> None:
    with small_disk(tmp_path / "disk", megabytes=40) as disk:
        out = disk / "run"
        with started(command(digits, out, "checkpoint_every_s=1000"), log) as process:
            wait_until(lambda: (out / "metrics.csv").exists() and len(rows(out)) > 3, process)
            filler = fill(disk)
            wait_until(lambda: "cannot be written, the run goes on" in log.read_text(), process)
            filler.unlink()
            assert exit_code(process) == 0, log.read_text()
        assert_equal_runs(out, whole)


# T05 to T08: signals to one of two


def test_t05_sigterm_to_the_launcher_stops_all_at_one_step(
    digits: Path, out: Path, log: Path, whole_of_two: Path
) -> None:
    with started(command(digits, out, "devices=2"), log) as launcher:
        wait_until(in_the_middle(out), launcher)
        assert len(others(launcher.pid)) == 1
        send(launcher.pid, signal.SIGTERM)
        assert exit_code(launcher, timeout_s=30) == TERMINATED, log.read_text()
        wait_until(lambda: not session(launcher.pid), timeout_s=10)
    said = log.read_text()
    assert f"stopped at step {newest_step(out)}" in said
    assert "Traceback" not in said
    assert not (out / "artifact").exists()
    assert run_ranks(command(digits, out, "--resume"), log) == [0, 0], log.read_text()
    assert_equal_runs(out, whole_of_two)


def test_t06_sigterm_to_another_rank_stops_all_at_one_step(
    digits: Path, out: Path, log: Path, whole_of_two: Path
) -> None:
    with started_ranks(command(digits, out), log) as ranks:
        wait_until(in_the_middle(out), ranks[0])
        send(ranks[1].pid, signal.SIGTERM)
        assert [exit_code(process, timeout_s=30) for process in ranks] == [TERMINATED, 0], log.read_text()
    assert f"stopped at step {newest_step(out)}" in log.read_text()
    assert run_ranks(command(digits, out, "--resume"), log) == [0, 0], log.read_text()
    assert_equal_runs(out, whole_of_two)


def assert_the_other_ends(digits: Path, out: Path, log: Path, lost: int) -> None:
    with started_ranks(command(digits, out), log) as ranks:
        wait_until(in_the_middle(out), ranks[0])
        send(ranks[lost].pid, signal.SIGKILL)
        assert exit_code(ranks[1 - lost], timeout_s=30) == IO, log.read_text()
        assert not session(ranks[1 - lost].pid)
    said = log.read_text()
    assert "another process of the run was ended or did not answer in time" in said
    assert "Traceback" not in said


def test_t07_a_killed_first_rank_ends_the_other(digits: Path, out: Path, log: Path) -> None:
    assert_the_other_ends(digits, out, log, lost=0)


def test_t07_a_killed_rank_ends_the_first_and_the_run_goes_on_exactly(
    digits: Path, out: Path, log: Path, whole_of_two: Path
) -> None:
    assert_the_other_ends(digits, out, log, lost=1)
    assert run_ranks(command(digits, out, "--resume"), log) == [0, 0], log.read_text()
    assert_equal_runs(out, whole_of_two)


@pytest.mark.parametrize("still", [0, 1])
def test_t08_a_rank_that_stands_still_ends_the_other_when_its_time_is_over(
    digits: Path, out: Path, log: Path, still: int
) -> None:
    with started_ranks(command(digits, out, "peer_timeout_s=3", ENDLESS), log) as ranks:
        wait_until(in_the_middle(out), ranks[0])
        send(ranks[still].pid, signal.SIGSTOP)
        began = time.monotonic()
        assert exit_code(ranks[1 - still], timeout_s=30) == IO, log.read_text()
        assert time.monotonic() - began > 2.0, "it was given its time"
    assert "did not answer in time (peer_timeout_s)" in log.read_text()
    assert newest_valid(out / "checkpoints").step >= 3


def test_t08_a_rank_that_never_comes_ends_the_run_by_the_same_name(digits: Path, out: Path, log: Path) -> None:
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "WORLD_SIZE": "2", "NODE_RANK": "0", "LOCAL_RANK": "0"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        alone["MASTER_PORT"] = str(free.getsockname()[1])
    with started(command(digits, out, "devices=2", "peer_timeout_s=2"), log, alone) as process:
        assert exit_code(process) == IO, log.read_text()
    assert "did not answer in time (peer_timeout_s)" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_stop_that_reaches_the_loaders_too_is_a_stop_like_any_other(
    digits: Path, out: Path, log: Path, whole: Path
) -> None:
    """`timeout` and systemd send SIGTERM to all processes of a job."""
    with started(command(digits, out, "workers=2"), log) as process:
        wait_until(in_the_middle(out), process)
        assert len(others(process.pid)) == 2
        assert process.pid
        os.killpg(process.pid, signal.SIGTERM)
        assert exit_code(process) == TERMINATED, log.read_text()
        wait_until(lambda: not session(process.pid), timeout_s=10)
    assert run(command(digits, out, "--resume"), log) == 0, log.read_text()
    assert_equal_runs(out, whole)


# T09


@pytest.fixture
def damaged(digits: Path, tmp_path: Path) -> Path:
    """Three hundred images: good ones, one as printers want it, an empty one, a bomb, and one that will vanish."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number, path in enumerate(sorted(digits.rglob("*.png"))[:297]):
        shutil.copy(path, folder / f"{number:03d}.png")
    (folder / "cmyk.jpg").write_bytes(encoded(Image.new("CMYK", (16, 16), (0, 90, 90, 0)), "JPEG"))
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_of(13_000, 13_000))
    return folder


# An epoch and a half, so that every image is met, some twice; 3 of 300 are one in a hundred.
TWICE = ("batch_size=50", "max_steps=9", "local_views=0", "color_jitter=0", "held_out=0")


@pytest.mark.parametrize(("more", "code"), [(0, 0), (1, BAD_DATA)])
def test_t09_one_unusable_image_in_a_hundred_is_borne_and_one_more_is_not(
    damaged: Path, out: Path, log: Path, more: int, code: int
) -> None:
    for number in range(more):
        path = damaged / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:40])
    with started(command(damaged, out, *TWICE), log) as process:
        wait_until((out / "config.toml").exists, process)
        (damaged / "100.png").unlink()
        assert exit_code(process) == code, log.read_text()
    said = log.read_text()
    for name in ("empty.png", "bomb.png", "100.png"):
        assert said.count(f"{name} is left out") == 1
    assert "cmyk.jpg" not in said
    if code == 0:
        assert rows(out)[-1]["corrupt"] == "3"
    else:
        assert "4 of 300 images cannot be used, more than 1 %" in said
        assert not (out / "artifact").exists()


# T10, T14, T15: what is not the run that began


def test_t10_changed_images_are_bad_data_and_named(damaged: Path, out: Path, log: Path) -> None:
    small = (*TWICE, "max_steps=1")
    assert run(command(damaged, out, *small), log) == 0, log.read_text()
    (damaged / "200.png").unlink()
    assert run(command(damaged, out, *small, "--resume"), log) == BAD_DATA
    assert "1 gone: 200.png" in log.read_text()
    assert run(command(damaged, out, *small, "--resume", "--accept-data"), log) == 0, log.read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["seed=9"], "seed was 0, and is 9 now"),
        (["--recipe", "dinov2"], "recipe was dino, and is dinov2 now"),
        (["batch_sise=8"], "there is no key 'batch_sise'; did you mean 'batch_size'?"),
    ],
)
def test_t14_changed_and_unknown_keys_are_configuration_errors(
    digits: Path, tmp_path: Path, log: Path, whole: Path, more: list[str], message: str
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    assert run(command(digits, tmp_path / "run", *more, "--resume"), log) == CONFIG
    assert message in log.read_text()
    assert_equal_runs(tmp_path / "run", whole)


def test_t15_another_number_of_processes_is_refused_unless_it_is_accepted(
    digits: Path, tmp_path: Path, log: Path, whole_of_two: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole_of_two, out, ignore=shutil.ignore_patterns("artifact"))
    last = read_checkpoint(checkpoint_files(out / "checkpoints")[1])
    checkpoint_files(out / "checkpoints")[0].unlink()
    assert run(command(digits, out, "--resume"), log) == CONFIG
    assert "the run had 2 processes and has 1 now" in log.read_text()
    assert newest_step(out) == last.step
    assert run(command(digits, out, "--resume", "--accept-processes"), log) == 0, log.read_text()
    assert [row["step"] for row in rows(out)] == [row["step"] for row in rows(whole_of_two)]
    # Of what comes after the change, only the first loss is near: drop path draws otherwise, and KoLeo compares more.
    assert newest_valid(out / "checkpoints").processes == 1


# T11

POISON = """
import torch, training.module
from training.distributed import rank
good, calls = training.module.normalised, 0

def poisoned(pixels):
    global calls
    calls += 1
    return good(pixels) * (float("nan") if rank() == 1 and calls in {steps} else 1.0)

training.module.normalised = poisoned
"""


def test_t11_one_rank_without_a_finite_loss_lets_all_skip_and_three_times_ends_the_run(
    digits: Path, out: Path, log: Path
) -> None:
    keys = ("local_views=0", "checkpoint_every_s=0", "keep_checkpoints=99", "seed=5")
    poison = POISON.format(steps={3, 4, 7, 8, 9})
    assert run_ranks(command(digits, out, *keys), log, before=poison) == [BAD_DATA, BAD_DATA], log.read_text()
    said = log.read_text()
    assert said.count("not finite in 3 steps in a row, up to step 9 (seed 5, images number") == 2
    assert "Traceback" not in said
    folder = out / "checkpoints"
    saved = {step: read_checkpoint(checkpoint_path(folder, step)) for step in range(1, 9)}
    assert newest_step(out) == 8
    for checkpoint in saved.values():
        assert all(tensor.isfinite().all() for tensor in checkpoint.method.values())
        moments = [value for state in checkpoint.optimizer["state"].values() for value in state.values()]
        assert all(value.isfinite().all() for value in moments)
    for skipped, before in ((3, 2), (4, 2), (7, 6), (8, 6)):
        ours, theirs = saved[skipped].method, saved[before].method
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), f"step {skipped}"
    assert any(not torch.equal(saved[5].method[name], saved[2].method[name]) for name in saved[2].method)
    assert [row["skipped"] for row in rows(out)][1:] == ["0", "0", "1", "1", "0", "0", "1", "1"]


# T12


@pytest.mark.parametrize(("keys", "code"), [([], BAD_DATA), (["collapse=warn"], 0), (["collapse=off"], 0)])
def test_t12_a_collapse_is_announced_and_then_ends_the_run_by_its_name(
    digits: Path, out: Path, log: Path, keys: list[str], code: int
) -> None:
    uniform = ["teacher_temperature=99", "teacher_temperature_start=99", "centring=softmax", "lr=0", "warmup=0"]
    assert run(command(digits, out, *uniform, "collapse_steps=8", *keys), log) == code, log.read_text()
    said = log.read_text()
    assert said.count("the representation looks collapsed (uniform) since step 1") == {
        (): 2,
        ("collapse=warn",): 1,
    }.get(tuple(keys), 0)
    if code:
        assert "In 4 more steps of this the run is stopped" in said
        assert "The run is stopped at step 9: lower teacher_temperature" in said
        assert not (out / "artifact").exists()


# T16


def test_t16_a_killed_loader_is_one_clear_error_and_the_run_goes_on_exactly(
    digits: Path, out: Path, log: Path, whole: Path
) -> None:
    with started(command(digits, out, "workers=2"), log) as process:
        wait_until(in_the_middle(out), process)
        send(others(process.pid)[0], signal.SIGKILL)
        assert exit_code(process) == IO, log.read_text()
        wait_until(lambda: not session(process.pid), timeout_s=10)
    said = log.read_text()
    assert said.count("a process that loads images was ended") == 1
    assert "Traceback" not in said
    for path in checkpoint_files(out / "checkpoints"):
        read_checkpoint(path)
    assert run(command(digits, out, "--resume"), log) == 0, log.read_text()
    assert not list(out.rglob(".*.tmp"))
    assert_equal_runs(out, whole)


# T17


class Hostile:
    """What a stranger's checkpoint may hold: on loading, pickle would import a module and run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch exploded; false",)


# Notes what a program that was taken over would do; installed before anything is read.
WATCHED = """
import sys
from pathlib import Path

def watch(event, arguments):
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"):
        with Path({report!r}).open("a") as file:
            file.write(f"{{event}} {{arguments[:2]}}\\n")

sys.addaudithook(watch)
"""


@pytest.mark.parametrize("kind", ["in our envelope", "as torch writes it", "bare"])
@pytest.mark.parametrize("by", ["resume", "export of the run", "export of the file"])
def test_t17_a_hostile_checkpoint_is_refused_and_nothing_of_it_runs(
    digits: Path, tmp_path: Path, log: Path, whole: Path, kind: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, report = tmp_path / "run", tmp_path / "report"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("artifact", "checkpoints"))
    (out / "checkpoints").mkdir()
    file = checkpoint_path(out / "checkpoints", 5)
    torch.save({"step": Hostile()}, file)
    body = file.read_bytes()
    if kind == "in our envelope":
        file.write_bytes(f"dinodex-checkpoint 2 {hashlib.sha256(body).hexdigest()}\n".encode() + body)
    elif kind == "bare":
        file.write_bytes(pickle.dumps(Hostile()))
    arguments = {
        "resume": command(digits, out, "--resume"),
        "export of the run": ["export", str(out), "--out", str(tmp_path / "artifact"), "--no-onnx"],
        "export of the file": ["export", str(file), "--out", str(tmp_path / "artifact"), "--no-onnx"],
    }[by]
    assert run(arguments, log, before=WATCHED.format(report=str(report))) == BAD_DATA, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not report.exists(), report.read_text()
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "artifact").exists()


# T18


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_t18_a_second_trainer_on_one_directory_is_locked_out(
    digits: Path, out: Path, log: Path, tmp_path: Path, more: list[str]
) -> None:
    with started(command(digits, out, ENDLESS), log) as first:
        wait_until(in_the_middle(out), first)
        assert run(command(digits, out, ENDLESS, *more), tmp_path / "second") == LOCKED
        assert "in use by another dinodex process" in (tmp_path / "second").read_text()
        assert first.exitcode is None


def test_t18_an_export_that_was_killed_is_made_by_the_next_resume(
    digits: Path, out: Path, log: Path, whole: Path
) -> None:
    killed = "import os; import training.run as run; run.export_checkpoint = lambda *_, **__: os.kill(os.getpid(), 9)"
    assert run(command(digits, out), log, before=killed) == KILLED
    assert not (out / "artifact").exists()
    assert run(command(digits, out, "--resume"), log) == 0, log.read_text()
    assert_equal_runs(out, whole)
