"""The log of a run: what is written, what a resumed run keeps, and that no failing disk or service stops a run."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.errors import ConfigInvalid
from training.metrics import COLUMNS, Metrics, Values
from training.weights_and_biases import WeightsAndBiases


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def steps(run: Path) -> list[int]:
    rows = table(run)
    assert all(None not in row and None not in row.values() for row in rows), "a torn row"
    return [int(row["step"]) for row in rows]


def curve(run: Path, name: str = "loss") -> list[tuple[int, float]]:
    """The points that TensorBoard shows."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def row(step: int, **values: float | int | None) -> Values:
    return {"step": step, "epoch": 0, "images": step * 16, "loss": 5.0 - step / 10, **values}


def test_rows_are_in_the_file_and_on_the_curves_as_soon_as_they_are_written(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.write(row(0, knn=0.25, two_view_recall=None))
        metrics.write(row(10))
        assert steps(tmp_path) == [0, 10]
        assert list(table(tmp_path)[0]) == list(COLUMNS)
        assert table(tmp_path)[0]["knn"] == "0.25"
        assert table(tmp_path)[1]["knn"] == ""
        assert curve(tmp_path) == [(0, 5.0), (10, 4.0)]
        assert curve(tmp_path, "knn") == [(0, 0.25)]


def test_nine_digits_tell_every_float32_from_its_neighbours(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=100).astype(np.float32) * np.float32(1e-5)
    values[::2] = np.nextafter(values[1::2], np.float32(np.inf))
    with Metrics(tmp_path) as metrics:
        for step, value in enumerate(values):
            metrics.write(row(step, lr=float(value)))
    assert np.array_equal(np.array([float(found["lr"]) for found in table(tmp_path)], dtype=np.float32), values)


def test_a_column_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics, pytest.raises(ValueError, match="no column accuracy"):
        metrics.write(row(0, accuracy=1.0))


def test_a_resumed_run_continues_file_and_curves_and_takes_back_what_will_come_again(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        for step in (0, 10, 20, 30):
            metrics.write(row(step, skipped=1))
    with Metrics(tmp_path, resume_step=10) as metrics:
        metrics.write(row(20, skipped=2))
    assert steps(tmp_path) == [0, 10, 20]
    assert [found["skipped"] for found in table(tmp_path)] == ["1", "1", "2"]
    assert curve(tmp_path, "skipped") == [(0, 1.0), (10, 1.0), (20, 2.0)]


@pytest.mark.parametrize("resume_step", [9, 10, 11, 1000])
def test_the_row_of_the_checkpoint_itself_is_kept(tmp_path: Path, resume_step: int) -> None:
    with Metrics(tmp_path) as metrics:
        for step in (0, 10, 11):
            metrics.write(row(step))
    Metrics(tmp_path, resume_step).close()
    assert steps(tmp_path) == [step for step in (0, 10, 11) if step <= resume_step]


def test_a_row_that_was_torn_at_any_byte_is_left_out(tmp_path: Path) -> None:
    with Metrics(tmp_path) as metrics:
        metrics.write(row(10))
        whole = (tmp_path / "metrics.csv").read_bytes()
        metrics.write(row(20, knn=0.5))
    both = (tmp_path / "metrics.csv").read_bytes()
    for end in range(len(whole), len(both)):
        (tmp_path / "metrics.csv").write_bytes(both[:end])
        Metrics(tmp_path, resume_step=1000).close()
        assert (tmp_path / "metrics.csv").read_bytes() == whole
    (tmp_path / "metrics.csv").write_bytes(whole + bytes(200))  # what a power cut may leave
    Metrics(tmp_path, resume_step=1000).close()
    assert (tmp_path / "metrics.csv").read_bytes() == whole


def test_a_file_that_is_gone_begins_anew(tmp_path: Path) -> None:
    with Metrics(tmp_path, resume_step=10) as metrics:
        metrics.write(row(20))
    assert steps(tmp_path) == [20]


def test_files_of_other_versions_are_kept_under_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2):
        (tmp_path / "metrics.csv").write_text(f"step,loss\n{number},3.5\n")
        with Metrics(tmp_path, resume_step=10) as metrics:
            metrics.write(row(20))
        assert (tmp_path / f"metrics-old-{number}.csv").read_text() == f"step,loss\n{number},3.5\n"
        assert f"kept as metrics-old-{number}.csv" in caplog.text
        assert steps(tmp_path) == [20]


class Recorder:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.rows: list[Values] = []
        self.closed = 0

    def write(self, values: Values) -> None:
        self.rows.append(values)

    def close(self) -> None:
        self.closed += 1


def test_further_sinks_get_every_row_and_are_closed(tmp_path: Path) -> None:
    sinks = [Recorder(), Recorder()]
    with Metrics(tmp_path, sinks=sinks) as metrics:
        metrics.write(row(0))
        metrics.write(row(10))
    assert [sink.rows for sink in sinks] == [[row(0), row(10)]] * 2
    assert [sink.closed for sink in sinks] == [1, 1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user cannot mount a disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """No file of this process can grow beyond 4,500 bytes: the kernel writes a part of what is given, and refuses the rest.

    Within a test only: pytest's own report may go to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4500, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def warnings(caplog: pytest.LogCaptureFixture, file: str) -> list[str]:
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [text for record in records if file in (text := record.getMessage())]


def test_a_full_disk_does_not_stop_a_run_and_costs_no_row(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Metrics(small_disk) as metrics:
        metrics.write(row(0))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for step in range(1, 200):  # more than the pages that the files already have can take
            metrics.write(row(step, momentum=0.996, lr=1e-3))
            assert (small_disk / "metrics.csv").read_bytes().endswith(b"\n")
        assert len(steps(small_disk)) < 200
        filler.unlink()
        metrics.write(row(200))
        assert steps(small_disk) == list(range(201))
    assert [step for step, _ in curve(small_disk)] == list(range(201))
    assert len(warnings(caplog, "metrics.csv")) == 1
    assert len(warnings(caplog, "tfevents")) == 1
    assert "No space left" in warnings(caplog, "metrics.csv")[0]


def test_what_the_kernel_wrote_of_a_refused_row_is_taken_back(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    with small_files():
        for step in range(400):
            metrics.write(row(step))
        refused_from = len(steps(tmp_path))
        whole = (tmp_path / "metrics.csv").read_bytes().endswith(b"\n")
    assert 50 < refused_from < 400
    assert whole
    metrics.write(row(400))
    metrics.close()
    assert steps(tmp_path) == list(range(401))
    assert [step for step, _ in curve(tmp_path)] == list(range(401))


def test_rows_that_the_disk_refuses_to_the_end_are_counted_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_files(), Metrics(tmp_path) as metrics:
        for step in range(400):
            metrics.write(row(step))
    found = steps(tmp_path)
    assert found == list(range(len(found)))
    assert any("lacks its last" in text for text in warnings(caplog, "metrics.csv"))


def test_a_disk_that_fails_is_logged_once_for_each_time_that_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [False]

    def pwrite(descriptor: int, data: bytes, offset: int, write=os.pwrite) -> int:  # noqa: ANN001
        if broken[0]:
            raise OSError(errno.EIO, "Input/output error")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with Metrics(tmp_path) as metrics:
        for step in range(40):
            broken[0] = 10 <= step < 20 or 30 <= step < 35
            metrics.write(row(step))
    assert steps(tmp_path) == list(range(40))
    assert len(warnings(caplog, "metrics.csv")) == 2
    assert "Input/output error" in warnings(caplog, "metrics.csv")[0]


def test_a_folder_that_cannot_be_made_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with Metrics(tmp_path) as metrics:
        metrics.write(row(0))
        (tmp_path / "tensorboard").unlink()
        metrics.write(row(1))
    assert curve(tmp_path) == [(0, 5.0), (1, pytest.approx(4.9))]
    assert len(warnings(caplog, "tfevents")) == 1


OFFLINE = """
import sys, warnings
from pathlib import Path
from training.metrics import Metrics
from training.weights_and_biases import WeightsAndBiases
run = Path(sys.argv[1])
with Metrics(run, sinks=[WeightsAndBiases("digits", run, {"lr": 0.1, "mask_ratio": [0.1, 0.5]})]) as metrics:
    metrics.write({"step": 0, "loss": 5.0, "knn": None})
    metrics.write({"step": 10, "loss": 4.0, "knn": 0.5})
"""


def offline(program: str, run: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program without an account or a network, warnings being errors."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = {
        "HOME": str(run),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(run)],
        env={**kept, **home, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def logged(file: Path) -> Iterator[bytes]:
    """The records of a small file of that package: LevelDB's log format after 7 bytes, in one block."""
    data, place = file.read_bytes(), 7
    assert len(data) < 2**15
    while place < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, place)
        assert kind == 1, "a whole record"
        yield data[place + 7 : place + 7 + length]
        place += 7 + length


def test_weights_and_biases_gets_the_rows_and_a_resumed_run_goes_on_with_its_curve(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for number in (1, 2):
        done = offline(OFFLINE, tmp_path)
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
        assert len(files) == number
    assert len({file.name for file in files}) == 1, "one curve"
    assert files[0].stem == f"run-{(tmp_path / 'wandb-id').read_text()}"

    history, config = [], {}
    for data in logged(files[0]):
        record = Record.FromString(data)
        if record.HasField("history"):
            history.append({(*item.nested_key, item.key)[0]: item.value_json for item in record.history.item})
        config |= {(*item.nested_key, item.key)[0]: item.value_json for item in record.run.config.update}
    points = [(int(row["_step"]), float(row["loss"]), row.get("knn")) for row in history]
    assert points == [(0, 5.0, None), (10, 4.0, "0.5")]
    assert config["lr"] == "0.1"
    assert json.loads(config["mask_ratio"]) == [0.1, 0.5]


def test_a_service_that_dies_or_is_away_stops_no_run_and_is_logged_once(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    dies = OFFLINE.replace(
        'metrics.write({"step": 0',
        """import os, signal, subprocess, time
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"PPid:\\t{os.getpid()}\\n" in (folder / "status").read_text() and b"wandb-core" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if ours:
            os.kill(int(folder.name), signal.SIGKILL)
            os.waitpid(int(folder.name), 0)
    time.sleep(0.2)
    metrics.write({"step": 0""",
    )
    assert dies != OFFLINE
    away = {"WANDB_MODE": "online", "WANDB_API_KEY": 40 * "a", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    short = OFFLINE.replace("run = Path", "training.weights_and_biases.START_TIMEOUT_S = 2.0\nrun = Path")
    for name, program, environment in (
        ("dies", dies, {}),
        ("away", f"import training.weights_and_biases\n{short}", away),
    ):
        (tmp_path / name).mkdir()
        done = offline(program, tmp_path / name, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Weights & Biases cannot be reached") == 1, done.stderr
        assert steps(tmp_path / name) == [0, 10]


def test_without_a_login_the_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    done = offline(OFFLINE, tmp_path, WANDB_MODE="online")
    assert done.returncode != 0
    assert "ConfigInvalid: wandb=digits cannot be used" in done.stderr
    assert "wandb login" in done.stderr


def test_without_the_package_the_key_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigInvalid, match=r"pip install 'dinodex\[wandb\]'"):
        WeightsAndBiases("digits", tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_nothing_of_that_package_is_imported_unless_it_is_asked_for(tmp_path: Path) -> None:
    program = "import sys, training.metrics, training.weights_and_biases\nassert 'wandb' not in sys.modules"
    done = offline(program, tmp_path)
    assert done.returncode == 0, done.stderr
