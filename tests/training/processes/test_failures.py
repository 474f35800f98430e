from __future__ import annotations

import socket
import threading
from multiprocessing import resource_sharer
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from training.errors import LoadingFailed
from training.processes.failures import named_failures


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


@pytest.mark.parametrize("gone", ["the socket", "its listener", "the process that listened"])
def test_t16_a_loader_that_ends_while_it_hands_a_batch_over_is_named(
    trainer: Trainer, tmp_path: Path, gone: str
) -> None:
    address = tmp_path / "socket"
    listener = socket.socket(socket.AF_UNIX)
    if gone != "the socket":
        listener.bind(str(address))
    if gone == "the process that listened":
        listener.listen()
        _hang_up_on_the_next_caller(listener)
    with pytest.raises(LoadingFailed, match="go on with --resume"), named_failures(trainer):
        resource_sharer._resource_sharer.get_connection((str(address), 1))  # type: ignore[attr-defined]
    listener.close()


def _hang_up_on_the_next_caller(listener: socket.socket) -> None:
    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.close()

    threading.Thread(target=hang_up, daemon=True).start()


@pytest.mark.parametrize(
    "error", [FileNotFoundError("data"), EOFError("file"), ConnectionResetError("upload"), RuntimeError("bug")]
)
def test_what_does_not_come_from_a_loader_stays_what_it_is(trainer: Trainer, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, named_failures(trainer):
        raise error
    assert raised.value is error
