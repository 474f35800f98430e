"""What works without what: each package imports in an environment that lacks the other packages' extras."""

from __future__ import annotations

import subprocess
import sys

import pytest

TORCH = ("torch", "torchvision", "lightning")
WEB = ("fastapi", "starlette", "uvicorn", "faiss", "structlog", "pydantic_settings", "sklearn", "openvino")


def run_without(modules: tuple[str, ...], script: str) -> subprocess.CompletedProcess[str]:
    block = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in modules)
    return subprocess.run([sys.executable, "-c", block + script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("absent", "script"),
    [
        (TORCH + WEB, "import backbone"),
        (
            TORCH,
            "import service, service.app, service.serve, service.ingestion.job, service.embedding.runtime_openvino",
        ),
        (TORCH + WEB, "import service"),
        (TORCH + WEB, "from dinodex import Client; Client('http://127.0.0.1:1')"),
        ((*TORCH, *WEB, "typer", "rich", "PIL", "safetensors"), "from dinodex import Client"),
        (TORCH + WEB, "import dinodex.cli"),
        (TORCH + WEB, "import service.ingestion.job, dinodex.remote_sink"),
    ],
)
def test_it_imports_without(absent: tuple[str, ...], script: str) -> None:
    done = run_without(absent, script)
    assert done.returncode == 0, done.stderr


def test_the_client_loads_no_heavy_module() -> None:
    script = (
        "import sys; from dinodex import Client\n"
        f"print(sorted(set(sys.modules) & {set(TORCH + WEB) | {'service', 'training', 'backbone'}!r}))"
    )
    assert run_without((), script).stdout == "[]\n"


@pytest.mark.parametrize(
    ("absent", "command", "extra"),
    [
        (WEB, ["serve", "--artifact", "a", "--data", "d"], "dinodex[serve]"),
        (TORCH, ["train", "x", "--out", "y"], "dinodex[train]"),
        (TORCH, ["demo"], "dinodex[all]"),
    ],
)
def test_a_command_whose_extra_is_missing_says_which(absent: tuple[str, ...], command: list[str], extra: str) -> None:
    done = run_without(absent, f"sys.argv[1:] = {command!r}\nfrom dinodex.cli import main; main()")
    assert done.returncode == 78
    assert extra in done.stderr
    assert "Traceback" not in done.stderr
