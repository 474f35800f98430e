"""The container files as data: what must hold of them can be checked without an engine; `docker/test` runs them with one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
import yaml
from hostile_folder import hostile_folder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dinodex.cli import app
from service.http.auth import OPEN_PATHS
from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"service": ("serve", "openvino"), "training": ("train",)}
GUIDES = ("README.md", "docs/operations.md")

every_service = pytest.mark.parametrize("name", SERVICES)
every_image = pytest.mark.parametrize("image", EXTRAS)


def resolved(text: str, **environment: str) -> str:
    """Fill in ${NAME:-default} as compose does."""
    filled = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda match: environment.get(match[1]) or match[2], text.replace("$$", "\0")
    )
    return filled.replace("\0", "$")


def dockerfile(image: str) -> str:
    return (ROOT / "docker" / f"{image}.Dockerfile").read_text(encoding="utf-8")


def instructions(image: str, word: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", dockerfile(image))
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(word + " ")]


def image_of(service: dict[str, Any]) -> str:
    return re.fullmatch(r"dinodex-(\w+):\$\{DINODEX_TAG:-latest\}", service["image"])[1]


def mounts(service: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Source, target, whether it is read-only."""
    result = []
    for volume in service["volumes"]:
        if isinstance(volume, dict):
            result.append((volume["source"], volume["target"], volume.get("read_only", False)))
        else:
            source, target, *mode = volume.split(":")
            result.append((source, target, mode == ["ro"]))
    return result


def arguments_of(service: dict[str, Any]) -> list[str]:
    """What is given to `dinodex`, the command first."""
    words = [resolved(word) for word in [*service.get("entrypoint", ["dinodex"]), *service.get("command", [])]]
    assert words[0] == "dinodex"
    return words[1:]


def parse(arguments: list[str]) -> dict[str, Any]:
    """Read a command line as `dinodex` would, without running it; a wrong option raises."""
    command = typer.main.get_command(app).commands[arguments[0]]
    return command.make_context(arguments[0], list(arguments[1:])).params


@every_service
def test_a_container_can_do_nothing_but_its_work(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["pids_limit"] > 0
    [scratch] = service["tmpfs"]
    assert scratch.startswith("/tmp:")
    assert {"noexec", "nosuid", "nodev"} < set(scratch.split(":")[1].split(","))
    forbidden = {"privileged", "cap_add", "devices", "pid", "ipc", "user", "userns_mode"}
    assert not forbidden & set(service)
    assert service.get("network_mode") in (None, "none")


@every_service
def test_logs_do_not_fill_the_disk(name: str) -> None:
    assert {"max-size", "max-file"} == set(SERVICES[name]["logging"]["options"])


@every_service
def test_a_service_writes_to_named_volumes_only(name: str) -> None:
    for source, target, read_only in mounts(SERVICES[name]):
        if target == "/images":
            assert read_only
        else:
            assert source in COMPOSE["volumes"]
            assert target == f"/{source}"


def test_each_volume_has_one_writer() -> None:
    writers = {(source, name) for name, each in SERVICES.items() for source, _, ro in mounts(each) if not ro}
    assert writers == {("runs", "train"), ("artifacts", "export"), ("data", "serve")}


@every_service
def test_the_command_of_a_service_is_one_that_dinodex_has(name: str) -> None:
    arguments = arguments_of(SERVICES[name])
    assert arguments[0] == name
    parse(arguments)


def test_train_export_and_serve_agree_where_things_lie() -> None:
    train, export, serve = (parse(arguments_of(SERVICES[name])) for name in ("train", "export", "serve"))
    assert train["out"] == export["source"]
    assert [export["out"]] == serve["artifact"]
    assert str(serve["data"]) == "/data"


def test_only_the_service_starts_without_being_asked_for() -> None:
    profiles = {name: service.get("profiles") for name, service in SERVICES.items()}
    assert profiles == {"serve": None, "train": ["train"], "export": ["export"], "index": ["index"]}


def test_training_has_no_network_and_room_for_its_loaders() -> None:
    assert SERVICES["train"]["network_mode"] == SERVICES["export"]["network_mode"] == "none"
    assert resolved(SERVICES["train"]["shm_size"]) == "2gb"


def test_the_key_comes_as_a_file_and_the_port_is_published_on_this_machine() -> None:
    serve = SERVICES["serve"]
    assert serve["secrets"] == SERVICES["index"]["secrets"] == ["api_key"]
    for name in ("serve", "index"):
        assert SERVICES[name]["environment"]["DINODEX_API_KEY_FILE"] == "/run/secrets/api_key"
    assert set(COMPOSE["secrets"]["api_key"]) == {"file"}
    port = parse(arguments_of(serve))["port"]
    assert [resolved(each) for each in serve["ports"]] == [f"127.0.0.1:8000:{port}"]


def test_health_is_asked_in_python_where_no_key_is_needed() -> None:
    program, *rest = SERVICES["serve"]["healthcheck"]["test"][1:]
    assert program == "python"
    url = re.search(r"'(http://[^']+)'", rest[1])[1]
    assert url == f"http://127.0.0.1:{parse(arguments_of(SERVICES['serve']))['port']}/readyz"
    assert "/readyz" in OPEN_PATHS
    assert SERVICES["index"]["depends_on"] == {"serve": {"condition": "service_healthy"}}


@pytest.mark.parametrize("status", [200, 503])
def test_u08_u09_health_is_asked_without_a_proxy_and_runs_no_file_of_the_data_directory(
    tmp_path: Path, status: int
) -> None:
    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    mark = hostile_folder(tmp_path)
    _, _, option, program = SERVICES["serve"]["healthcheck"]["test"]
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = program.replace(":8000/", f":{server.server_port}/")
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
        environment = {**os.environ, **proxies, "PYTHONPATH": ":"}
        command = [sys.executable, option, asked]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode == 0) == (status == 200), done.stderr
    assert not mark.exists()


def test_u09_index_asks_the_service_without_a_proxy_that_the_engine_puts_into_containers() -> None:
    host = httpx.URL(parse(arguments_of(SERVICES["index"]))["url"]).host
    for name in ("NO_PROXY", "no_proxy"):  # the engine sets both spellings
        assert SERVICES["index"]["environment"][name] == host == "serve"


def test_a_stop_leaves_the_drain_its_time() -> None:
    grace_s = int(SERVICES["serve"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["drain_s"].default


def test_the_head_of_the_compose_file_lists_what_can_be_set() -> None:
    head = COMPOSE_TEXT[: COMPOSE_TEXT.index("x-hardened")]
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_TEXT))
    assert set(re.findall(r"\b(?:DINODEX|PIP)_\w+", head)) == set(used)
    for name, default in used.items():
        assert default in head[head.index(name) :].splitlines()[0]


@every_image
def test_an_image_runs_as_a_user_that_is_visibly_not_root(image: str) -> None:
    [user] = instructions(image, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert user == instructions("service", "USER")[0], "both images write to the same volumes"
    assert f"useradd --uid {user.split(':')[0]} " in dockerfile(image)
    for service in SERVICES.values():
        for source, target, _ in mounts(service):
            if image_of(service) == image and source in COMPOSE["volumes"]:
                assert re.search(rf"install --directory --owner dinodex.* {target}\b", dockerfile(image))


@every_image
def test_an_image_installs_dependencies_before_code_and_keeps_no_cache(image: str) -> None:
    text = dockerfile(image)
    last_stage = text[text.rindex("\nFROM ") :]
    assert last_stage.index(f"docker/{image}-requirements.txt") < last_stage.index("COPY --from=wheel")
    for run in instructions(image, "RUN"):
        for command in re.findall(r"pip (?:install|wheel)[^&]*", run):
            assert "--no-cache-dir" in command
    assert set(instructions(image, "FROM")) == {"${PYTHON_IMAGE} AS wheel", "${PYTHON_IMAGE}"}
    assert "PYTHON_IMAGE=python:3.11-slim-bookworm" in instructions(image, "ARG")


def wanted_by(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """Every requirement of the project with these extras; an extra may name others."""
    for text in [
        *PROJECT["dependencies"],
        *(each for name in extras for each in PROJECT["optional-dependencies"][name]),
    ]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            yield from wanted_by(tuple(requirement.extras))
        else:
            yield requirement


def pinned(image: str) -> dict[str, str]:
    lines = (ROOT / "docker" / f"{image}-requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins}


@every_image
def test_an_image_holds_exact_versions_of_all_that_its_extras_want(image: str) -> None:
    pins = pinned(image)
    for requirement in wanted_by(EXTRAS[image]):
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"renew docker/{image}-requirements.txt: {requirement}"


def test_the_service_image_carries_no_torch() -> None:
    heavy = {"torch", "torchvision", "lightning", "pytorch-lightning", "triton"}
    assert not [name for name in pinned("service") if name in heavy or name.startswith("nvidia")]


def test_training_leaves_the_cuda_libraries_to_the_torch_wheel() -> None:
    assert not [name for name in pinned("training") if name.startswith(("nvidia", "cuda", "triton"))]


def test_only_what_the_images_need_goes_to_the_engine() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert lines[0] == "*"
    sent = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    packages = {"backbone", "training", "service", "dinodex"}
    assert sent == packages | {"LICENSE", "README.md", "pyproject.toml", "docker/*-requirements.txt"}


def test_the_key_cannot_be_committed() -> None:
    file = resolved(COMPOSE["secrets"]["api_key"]["file"])
    assert f"/{Path(file).parent}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def compose_commands(guide: str) -> list[list[str]]:
    """The words after `docker compose` of every command in a guide's shell blocks, in its order."""
    text = re.sub(r"\\\n", " ", (ROOT / guide).read_text(encoding="utf-8"))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [
        line for language, block in blocks if language in ("", "sh", "bash", "console") for line in block.splitlines()
    ]
    found = [command for line in lines for command in re.findall(r"\bdocker compose ([^&|;<>#]*)", line)]
    return [shlex.split(command) for command in found]


def split_run(words: list[str]) -> tuple[str, list[str]]:
    """The service that a `run` starts, and what it is given."""
    after = words.index("run") + 1
    at = next(index for index, word in enumerate(words) if index >= after and word in SERVICES)
    return words[at], words[at + 1 :]


@pytest.mark.parametrize("guide", GUIDES)
def test_every_compose_command_of_a_guide_names_services_and_options_that_exist(guide: str) -> None:
    commands = compose_commands(guide)
    assert commands
    for words in commands:
        if "run" in words:
            name, given = split_run(words)
            if "--entrypoint" not in words:
                parse(arguments_of(SERVICES[name]) + given)
        else:
            if "--profile" in words:
                assert words[words.index("--profile") + 1] in SERVICES
                words = words[words.index("--profile") + 2 :]
            verb, *services = [word for word in words if not word.startswith("-")]
            if verb == "exec":  # what follows the service runs in its container
                services = services[:1]
            assert verb in {"exec", "build", "up", "start", "stop", "ps", "logs", "down"}
            assert set(services) <= set(SERVICES)


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_goes_the_whole_way(guide: str) -> None:
    way = [
        split_run(words)[0] if "run" in words else "serve"
        for words in compose_commands(guide)
        if {"run", "up"} & set(words)
    ]
    assert way[:4] == ["train", "export", "serve", "index"]


def test_make_runs_the_test_with_a_real_engine() -> None:
    script = ROOT / "docker" / "test"
    assert os.access(script, os.X_OK)
    assert re.search(r"^docker-test:.*\n\t.*docker/test$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_without_an_engine_the_test_says_that_it_is_skipped(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock",
        "DINODEX_DOCKER_ENGINE": str(tmp_path / "no-such-program"),
    }
    run = subprocess.run(
        [ROOT / "docker" / "test"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0
    assert run.stdout.startswith("skipped: no Docker engine")
