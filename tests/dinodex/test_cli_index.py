"""`dinodex index` over several folders, and over folders of which some has gone, as a person meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Run
from pictures import encoded, picture

from backbone import Artifact
from dinodex import Client, cli_client

NAMES = ("DSC_0.png", "DSC_1.png", "DSC_2.png")


@pytest.fixture
def index_into(run: Run) -> Run:
    """Index a folder into the collection of these tests."""
    return lambda *arguments: run("index", *arguments, "--collection", "c")


@pytest.fixture
def index(index_into: Run, tiny_artifact: Artifact, tmp_path: Path) -> Run:
    """Index a folder into a data directory of this test."""
    return lambda *more: index_into(*more, "--artifact", tiny_artifact.path, "--data", tmp_path / "data")


@pytest.fixture
def rolls(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of other pictures with the same names."""
    folders = tmp_path / "roll1", tmp_path / "roll2"
    for number, folder in enumerate(folders):
        folder.mkdir()
        for seed, name in enumerate(NAMES):
            (folder / name).write_bytes(encoded(picture(seed=10 * number + seed)))
    return folders


def test_u02_another_folder_with_the_same_names_is_refused_and_both_ways_out_are_named(
    index: Run, rolls: tuple[Path, Path], tmp_path: Path
) -> None:
    assert index(rolls[0])[0] == 0
    report = tmp_path / "refused.jsonl"
    code, out, err = index(rolls[1], "--report", report)
    assert (code, out.partition(" in ")[0]) == (65, "0 created, 0 replaced, 0 unchanged, 3 refused")
    assert "another source: 3; --id-prefix NAME/ keeps both, --replace-sources replaces those" in err
    assert {json.loads(line)["code"] for line in report.read_text().splitlines()} == {"other_source"}
    (rolls[1] / "new.png").write_bytes(encoded(picture(seed=99)))
    assert index(rolls[1])[:2][0] == 0
    assert index(rolls[1], "--id-prefix", "roll2/")[1].startswith("4 created, 0 replaced, 0 unchanged, 0 refused")
    code, out, err = index(rolls[1], "--replace-sources")
    assert (code, out.partition(" in ")[0], err) == (0, "0 created, 3 replaced, 1 unchanged, 0 refused", "")


def test_u01_what_stops_a_prune_is_said_behind_what_was_indexed(
    index: Run, rolls: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, disk = rolls
    (folder / "disk").symlink_to(disk)
    assert index(folder)[1].startswith("6 created")
    for name in NAMES[:2]:
        (folder / name).unlink()
    (folder / "new.png").write_bytes(encoded(picture(seed=99)))
    code, out, err = index(folder, "--prune")
    assert (code, out.partition(" in ")[0]) == (65, "1 created, 0 replaced, 4 unchanged, 0 refused")
    assert err.startswith("dinodex: 2 of 6 points would be pruned")
    assert "--yes" in err
    moved = disk.rename(tmp_path / "unplugged")
    code, out, err = index(folder, "--prune", "--yes")
    assert (code, out.partition(" in ")[0]) == (74, "0 created, 0 replaced, 2 unchanged, 0 refused")
    assert f"dinodex: nothing was pruned: {folder / 'disk'} cannot be looked at" in err
    moved.rename(disk)
    code, out, err = index(folder, "--prune", "--yes")
    assert (code, out.partition(" in ")[0], err) == (0, "0 created, 0 replaced, 5 unchanged, 0 refused, 2 pruned", "")


def test_u01_a_moved_folder_needs_no_option(index: Run, rolls: tuple[Path, Path], tmp_path: Path) -> None:
    index(rolls[0])
    shutil.move(rolls[0], tmp_path / "moved")
    (tmp_path / "moved" / NAMES[0]).unlink()
    code, out, _ = index(tmp_path / "moved", "--prune")
    assert (code, out.partition(" in ")[0]) == (0, "0 created, 0 replaced, 2 unchanged, 0 refused, 1 pruned")


def test_u02_files_that_have_points_of_other_ids_are_said(index: Run, rolls: tuple[Path, Path]) -> None:
    index(rolls[0])
    assert "files with points of other ids already: 3" in index(rolls[0].parent)[2]


@pytest.mark.parametrize("prefix", ["a\nb", "\udcff", "p" * 512])
def test_u02_a_prefix_that_no_id_can_have_is_a_usage_error(index_into: Run, tmp_path: Path, prefix: str) -> None:
    code, _, err = index_into(tmp_path, "--url", "http://x", "--id-prefix", prefix)
    assert code == 2
    assert "--id-prefix" in err


def test_u02_over_http_a_prefix_keeps_both_and_what_was_replaced_is_said(
    index_into: Run, rolls: tuple[Path, Path], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def connect(*_: object) -> Iterator[Client]:
        yield client

    monkeypatch.setattr(cli_client, "connect", connect)
    there = ("--url", "http://x")
    assert "3 created" in index_into(rolls[0], *there)[1]
    assert "3 created" in index_into(rolls[1], *there, "--id-prefix", "roll2/")[1]
    assert client.collection("c").get(f"roll2/{NAMES[0]}").label is None
    (rolls[0] / NAMES[0]).write_bytes(encoded(picture(seed=99)))
    code, out, err = index_into(rolls[0], *there)
    assert (code, "0 created, 1 replaced, 2 unchanged, 0 refused" in out) == (0, True)
    assert "points with other content that were replaced: 1;" in err
    assert "--id-prefix" in err
    (rolls[0] / NAMES[0]).write_bytes(encoded(picture(seed=98)))
    assert "other content" not in index_into(rolls[0], *there, "--replace-sources")[2]


def test_u01_a_confirmation_of_nothing_is_a_mistake(index: Run, rolls: tuple[Path, Path]) -> None:
    code, _, err = index(rolls[0], "--yes")
    assert (code, "--prune" in err) == (2, True)
