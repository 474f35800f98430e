from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from processes import service_process

from service.concurrency.thread_priority import NICENESS, lower_priority, run_at_low_priority

if TYPE_CHECKING:
    from backbone import Artifact

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")


def niceness(thread: int | None = None) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread or threading.get_native_id())


def test_what_runs_at_low_priority_and_all_that_it_starts_gives_way_and_nothing_else_does() -> None:
    before, found = niceness(), {}

    def work() -> str:
        lower_priority()  # twice is once
        found["thread"] = niceness()
        inner = threading.Thread(target=lambda: found.update(inner=niceness()))
        inner.start()
        inner.join()
        found["process"] = int(subprocess.check_output([sys.executable, "-c", "import os; print(os.nice(0))"]))
        return "done"

    assert run_at_low_priority(work) == "done"
    assert found == dict.fromkeys(("thread", "inner", "process"), before + NICENESS)
    assert niceness() == before


def test_what_is_raised_at_low_priority_is_raised_here() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_at_low_priority(fail)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_s40_decoding_and_the_network_give_way_to_the_event_loop(
    tiny_artifact: Artifact, tmp_path: Path, png: Callable[..., bytes], runtime: str
) -> None:
    started = service_process(
        tiny_artifact.path, tmp_path / "data", tmp_path / "log", allow_anonymous=1, runtime=runtime
    )
    with started as service:
        body = {"content": png(), "headers": {"content-type": "image/png"}}
        httpx.post(f"http://127.0.0.1:{service.port}/v1/embed", **body).raise_for_status()  # type: ignore[arg-type]
        main, *decoders = service.family()
        threads = [int(task.name) for task in Path(f"/proc/{main}/task").iterdir()]
        lowered = niceness() + NICENESS
        assert decoders
        assert {niceness(each) for each in decoders} == {lowered}
        assert niceness(main) == niceness()
        assert sum(niceness(each) == lowered for each in threads) >= 2 + len(
            decoders
        )  # streams, and who waits for decoders
