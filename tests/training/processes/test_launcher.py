"""A world is joined where it is announced whole, ignored with a sentence where it is not, and refused where it contradicts itself."""

from __future__ import annotations

import os

import pytest

from training.errors import ConfigInvalid
from training.processes.launcher import kept_environment, read_world, refuse_malformed
from training.processes.world import Asked, World

ALONE = Asked(None, 1, 1)  # what a command without --devices and --nodes asks for on a machine without GPUs
MEETING = {"MASTER_ADDR": "host", "MASTER_PORT": "29500"}
STEP = {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "gpu[03-05,9]", "SLURM_NTASKS": "4"}
STEP |= {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}


OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}
OPEN_MPI |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


def read(asked: Asked = ALONE, **environment: str) -> tuple[World, list[str], dict[str, str]]:
    """The world, what was said, and what is left of the environment."""
    said: list[str] = []
    return read_world(environment, asked, said.append), said, environment


WHOLE = [
    ("torchrun", {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, (2, 1, 1, 2, 1)),
    ("torchrun of four machines", {"RANK": "7", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}, (8, 7, 1, 2, 4)),
    ("torchrun of one process", {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, (1, 0, 0, 1, 1)),
    ("Kubeflow, a process a machine", {"RANK": "1", "WORLD_SIZE": "3"}, (3, 1, 0, 1, 3)),
    ("one of torch's older launchers", {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, (2, 1, 1, 2, 1)),
    ("Lightning", {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, (2, 1, 1, 2, 1)),
    ("Open MPI", OPEN_MPI, (4, 3, 1, 2, 2)),
    ("MPICH", {"PMI_RANK": "1", "PMI_SIZE": "2"}, (2, 1, 1, 2, 1)),
    ("jsrun", {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_LOCAL_RANK": "1"}, (2, 1, 1, 2, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "expected"), [case[1:] for case in WHOLE], ids=[case[0] for case in WHOLE])
def test_u04_a_world_that_is_announced_whole_is_joined(environment: dict[str, str], expected: tuple[int, ...]) -> None:
    world, _, left = read(**environment, **MEETING)
    assert (world.size, world.rank, world.local_rank, world.local_size, world.nodes) == expected
    assert (world.address, world.port) == ("host", 29500)
    assert world.launcher is not None
    assert world.is_first == (world.rank == 0)
    assert left == environment | MEETING


@pytest.mark.parametrize("tasks", ["2", "2(x2)", "3,2,1"])
def test_u04_a_step_of_slurm_is_joined_also_without_tasks_per_node(tasks: str) -> None:
    expected = World(4, 3, 1, 2, "srun", "gpu03", 19567)
    asked = Asked(None, 2, 1)
    assert read(asked, **STEP)[0] == expected
    assert read(asked, **STEP, SLURM_STEP_TASKS_PER_NODE=tasks)[0] == expected
    assert read(asked, **STEP, MASTER_PORT="29500")[0].port == 29500


def test_u04_a_world_that_is_numbered_by_hand_is_told_of_and_one_of_this_run_is_not() -> None:
    by_hand = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}
    assert read(**by_hand)[1] == ["process 1 of 2, by hand; all meet at 127.0.0.1:29500"]
    assert read(**by_hand, DINODEX_STARTED_BY=str(os.getppid()))[1] == []
    assert len(read(**by_hand, DINODEX_STARTED_BY="1")[1]) == 1, "of a run that is over"


LEFT = [
    {"RANK": "1"},
    {"RANK": "0"},
    {"LOCAL_RANK": "1"},
    {"NODE_RANK": "1"},
    {"GROUP_RANK": "1"},
    {"WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host"},
    {"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4"},
    {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
    {"SLURM_PROCID": "1"},
    {name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"},
    STEP | {"SLURM_JOB_NAME": "interactive"},
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    {"JSM_NAMESPACE_RANK": "1"},
]


@pytest.mark.parametrize("environment", LEFT, ids=lambda each: " ".join(f"{k}={v}" for k, v in each.items()))
def test_u04_what_announces_no_world_is_ignored_with_a_sentence(environment: dict[str, str]) -> None:
    for asked in (ALONE, Asked(2, 1, 1)):
        world, [said], left = read(asked, **environment)
        assert (world.rank, world.size, world.launcher) == (0, asked.size, None)
        assert said.startswith("ignoring ")
        assert any(f"{name}={value}" in said for name, value in environment.items())
        ranks = {"RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"}
        assert not ranks & left.keys(), "Lightning reads them"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LOCAL_RANK": "-1"},
        {"RANK": ""},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"MASTER_ADDR": "gone", "MASTER_PORT": "29500"},
    ],
)
def test_u04_what_means_one_process_is_no_word_worth(environment: dict[str, str]) -> None:
    world, said, left = read(**environment)
    assert (world.size, world.is_first, said) == (1, True, [])
    assert "MASTER_ADDR" not in left


REFUSED = [
    ({"RANK": "1", "WORLD_SIZE": "1"}, ALONE, "process 1 of 1"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, ALONE, "process 2 of 2"),
    ({"RANK": "0", "WORLD_SIZE": "0"}, ALONE, "process 0 of 0"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, ALONE, "2 of 2 on its machine"),
    ({"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}, ALONE, "as many on each machine"),
    ({"RANK": "x", "WORLD_SIZE": "2"}, ALONE, "RANK is 'x'"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, Asked(1, 1, 1), "devices=1 and nodes=1"),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, Asked(4, 1, 1), "devices=2, nodes=1"),
    ({"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, Asked(None, 4, 1), "nodes=4"),
    ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, Asked(2, 1, 1), "devices=2"),
    ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, Asked(1, 1, 1), "there are 2 processes"),
    ({"LOCAL_RANK": "2"}, Asked(2, 1, 1), "2 of 2 on its machine"),
    ({"NODE_RANK": "2"}, Asked(1, 2, 1), "NODE_RANK is 2"),
    ({"NODE_RANK": "1", "WORLD_SIZE": "4"}, Asked(1, 2, 1), "WORLD_SIZE is 4"),
]


@pytest.mark.parametrize(("environment", "asked", "says"), REFUSED)
def test_u04_what_contradicts_itself_or_the_keys_is_refused(
    environment: dict[str, str], asked: Asked, says: str
) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        read(asked, **environment, **MEETING)


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_u04_a_port_that_is_none_is_refused(port: str) -> None:
    for asked, more in ((ALONE, {"RANK": "0", "WORLD_SIZE": "2"}), (Asked(2, 1, 1), {})):
        with pytest.raises(ConfigInvalid, match="MASTER_PORT is"):
            read(asked, **more, MASTER_ADDR="host", MASTER_PORT=port)


def test_u04_several_machines_without_a_place_to_meet_are_refused_and_with_one_are_numbered_by_hand() -> None:
    two = Asked(2, 2, 1)
    with pytest.raises(ConfigInvalid, match="nothing says where the machines meet"):
        read(two, NODE_RANK="1")
    world, said, left = read(two, NODE_RANK="1", WORLD_SIZE="4", **MEETING)
    assert world == World(4, 2, 0, 2, None, "host", 29500)
    assert said == []
    assert left["NODE_RANK"] == "1", "Lightning reads it"


def test_u04_a_resumed_run_without_new_keys_takes_the_world_that_there_is() -> None:
    world, _, _ = read(Asked(1, 1, 1, firm=False), RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", **MEETING)
    assert world.size == 2


@pytest.mark.parametrize(
    "name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"]
)
def test_u04_a_number_that_is_none_is_refused_before_lightning_is_imported(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"{name} is 'first'"):
        refuse_malformed({name: "first"})
    refuse_malformed({name: "0"})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "NODE_RANK"])
@pytest.mark.parametrize("blank", ["", " "])
def test_u04_a_variable_without_a_value_is_taken_out_before_lightning_reads_it(name: str, blank: str) -> None:
    environment = {name: blank, "WORLD_SIZE": "1"}
    refuse_malformed(environment)
    assert environment == {"WORLD_SIZE": "1"}


def test_u04_the_next_run_of_a_process_finds_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with kept_environment():
        del os.environ["RANK"]
        os.environ["LOCAL_RANK"] = "0"
    assert os.environ["RANK"] == "1"
    assert "LOCAL_RANK" not in os.environ
