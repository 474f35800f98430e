"""Child interpreters run our modules and not what lies in the current directory."""

from __future__ import annotations

import ast
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_folder import hostile_folder

from backbone.interpreter import module_command, module_environment, safe_children, search_path

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a hostile folder, as `python -m dinodex` does: it is the first place where modules are looked for."""
    mark = hostile_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return mark


def test_u08_a_child_runs_a_module_of_ours_and_no_file_of_the_current_directory(mark: Path) -> None:
    command = module_command("service.analysis.hdbscan_worker", "5", "0")
    done = subprocess.run(
        command, env=module_environment(os.environ), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert b"the parent is gone" in done.stderr  # it has come as far as that
    assert not mark.exists()


@pytest.mark.parametrize("entry", ["", ".", "../{name}"])
def test_u08_an_entry_of_pythonpath_that_follows_the_current_directory_is_not_passed_on(
    mark: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), entry.format(name=mark.parent.name)]))
    environment = module_environment(os.environ)
    assert str(mark.parent) not in environment["PYTHONPATH"].split(os.pathsep)
    assert "" not in environment["PYTHONPATH"].split(os.pathsep)
    done = subprocess.run([sys.executable, "-P", "-c", "import random, backbone"], env=environment, check=False)
    assert done.returncode == 0
    assert not mark.exists()


def test_u08_a_directory_that_pythonpath_names_in_full_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in search_path()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert str(tmp_path) in search_path()


def test_u08_a_checkout_is_where_the_code_is_found_also_where_one_stands_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *(path for path in sys.path if path != str(ROOT))])
    assert search_path()[0] == str(ROOT)


def test_u08_a_current_directory_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert any(Path(path, "random.py").exists() for path in search_path())
    monkeypatch.chdir(tmp_path)


def test_u08_processes_that_libraries_start_are_as_safe_and_the_environment_comes_back(
    mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", search_path())  # as the console script has it
    before = dict(os.environ)
    with safe_children():
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
        process.join()
        assert subprocess.run([sys.executable, "-c", "import random, backbone"], check=False).returncode == 0
    assert process.exitcode == 0
    assert not mark.exists()
    assert dict(os.environ) == before


def test_u08_no_other_module_starts_an_interpreter() -> None:
    starts = {
        str(path.relative_to(ROOT))
        for package in ("backbone", "training", "service", "dinodex")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        and {"executable", "ProcessPoolExecutor", "get_context"}
        & {getattr(node, field, None) for field in ("attr", "id", "name")}
    }
    assert starts == {"backbone/interpreter.py"}
