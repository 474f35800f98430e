"""Documents that can be wrong are run: the examples of every `--help`, and the commands and the Python of the README."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pictures import encoded, picture
from typer.testing import CliRunner

from dinodex.cli import app

README = Path(__file__).parents[2] / "README.md"
# In an order in which each finds what it needs; `serve` stays up for those after it.
BEFORE_SERVE = [["train"], ["export"], ["eval"], ["index"], ["demo"]]
WHILE_SERVED = [
    ["search"],
    ["classify"],
    ["cluster"],
    ["collections", "show"],
    ["collections", "delete"],
    ["collections", "create"],
    ["collections", "list"],
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as the examples assume it: `photos/` and `more-photos/` with class folders, `query.jpg`."""
    root = tmp_path_factory.mktemp("examples")
    for number in range(32):
        folder = "photos" if number < 24 else "more-photos"
        path = root / folder / f"class-{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(64, 48, seed=number), "JPEG"))
    (root / "query.jpg").write_bytes(encoded(picture(64, 48, seed=3), "JPEG"))
    return root


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tests' own `dinodex` first on the path, a free port, no settings and no cache of whoever runs this.

    One thread for each command: two of them run at once, and threads that outnumber the cores wait for each other by spinning.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DINODEX_")}
    folder = str(Path(sys.executable).parent)
    return {
        **clean,
        "PATH": f"{folder}:{clean['PATH']}",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "DINODEX_PORT": port,
        "DINODEX_URL": f"http://127.0.0.1:{port}",
    }


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def served(command: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run an example of `serve` as it stands, until the block ends."""
    assigned = dict(re.findall(r"(DINODEX_\w+)=(\S+)", command))
    words = [word for word in shlex.split(command) if "=" not in word]
    process = subprocess.Popen(
        words, cwd=folder, env={**environment, **assigned}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{environment['DINODEX_URL']}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        else:
            pytest.fail(f"{command} did not come up")
        yield
    finally:
        process.terminate()
        assert process.wait(40) == 0


def help_example(command: list[str]) -> str:
    shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert shown.exit_code == 0
    example = re.search(r"Example: (.+?)\n\s*\n", shown.stdout, re.DOTALL)
    assert example is not None, shown.stdout
    return " ".join(example[1].split())


def readme_blocks(kind: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for found, text in blocks if found == kind]


def readme_commands() -> tuple[list[str], str, list[str]]:
    """The blocks of commands before the one that serves, that one, and those after it."""
    blocks = readme_blocks("bash")
    serving = next(number for number, block in enumerate(blocks) if "dinodex serve" in block)
    return blocks[:serving], blocks[serving], blocks[serving + 1 :]


@pytest.fixture(scope="module")
def done(workplace: Path, environment: dict[str, str]) -> list[str]:
    """Run in the workplace what takes longest, the README up to `serve` and at the same time the demo; return the command lines."""
    readme, demo = "".join(readme_commands()[0]), help_example(["demo"])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda command: run(command, workplace, environment), [readme, demo]))
    return [*readme.splitlines(), demo]


def test_the_example_of_every_help_text_runs(
    workplace: Path, environment: dict[str, str], done: list[str], tmp_path: Path
) -> None:
    here = shutil.copytree(workplace, tmp_path / "here")
    for command in BEFORE_SERVE:
        example = help_example(command)
        if example not in done:
            run(example, here, environment)
    serve = help_example(["serve"])
    key = re.search(r"DINODEX_API_KEY=(\S+)", serve)
    assert key is not None
    with served(serve, here, environment):
        for command in WHILE_SERVED:
            run(help_example(command), here, {**environment, "DINODEX_API_KEY": key[1]})


def as_curl_would(command: str, folder: Path, environment: dict[str, str]) -> list[dict[str, object]]:
    """Send what a curl command line sends (a machine without curl tests it, too) and return the `result` of the answer."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[0] == "curl"
    headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
    body = (folder / words[words.index("--data-binary") + 1].removeprefix("@")).read_bytes()
    url = words[-1].replace("http://127.0.0.1:8000", environment["DINODEX_URL"])
    answer = httpx.post(url, headers=headers, content=body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["result"]
    return found


@pytest.mark.usefixtures("done")
def test_the_readme_s_commands_run_one_after_the_other(
    workplace: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    here = shutil.copytree(workplace, tmp_path / "here")
    _, serve, after = readme_commands()
    with served(serve, here, environment):
        for block in after:
            run(block, here, environment)
        [curl] = [block for block in readme_blocks("") if block.startswith("curl")]
        assert len(as_curl_would(curl, here, environment)) == 5
        for block in readme_blocks("python"):
            script = block.replace("http://127.0.0.1:8000", environment["DINODEX_URL"])
            printed = run(f"python - <<'END'\n{script}\nEND", here, environment)
            assert len(printed.splitlines()) == 5


def test_every_file_and_folder_that_the_readme_names_is_there() -> None:
    root = README.parent
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    missing = [link for link in links if not (root / link).exists()]
    assert missing == []
