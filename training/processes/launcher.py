"""The launcher of a run, as the environment tells of it: how many processes it started, and which one this is.

Such variables also stay behind: of a job that is over, of an image that was built for another program, of an allocation in which nobody
started several processes. So a world is joined where it is announced whole, with its size and the place where its processes meet. What
is announced by half is ignored, with a sentence, and what contradicts itself or the keys is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import NamedTuple

from training.errors import ConfigInvalid
from training.processes.world import LOOPBACK, Asked, World

# And the last four digits of the job's number: what Lightning takes, so that two jobs do not meet.
_SLURM_FIRST_PORT = 15_000
_INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs in which a person starts what runs


class Scheme(NamedTuple):
    """The variables in which one kind of launcher numbers the processes that it starts."""

    launcher: str
    rank: str
    size: str
    local_rank: str  # among those of one machine
    local_size: str


TORCHRUN = Scheme("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SRUN = Scheme("srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
_MPI = (
    Scheme("jsrun", *(f"JSM_NAMESPACE_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    Scheme("mpirun", *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    Scheme("mpirun", *(f"MV2_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))),
    Scheme("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
NODE_RANKS = ("NODE_RANK", "GROUP_RANK")  # which machine this is; the first that is set counts
_BY_HAND = "hand"
_STARTED_BY = "DINODEX_STARTED_BY"  # the number of a run's process, in the environment of those that it starts
_NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", *NODE_RANKS)
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
# What a run may change in its environment.
_CHANGED = (_STARTED_BY, *_NUMBERS, *_MEETING, SRUN.rank, *(scheme.rank for scheme in _MPI))


def refuse_malformed(environment: MutableMapping[str, str]) -> None:
    """Take out what numbers a process by nothing, as Compose sets it, and raise ConfigInvalid for what is no number.

    To be called before Lightning is imported, which reads both then.
    """
    for name in (*_NUMBERS, SRUN.rank, _MPI[0].rank):
        if not environment.get(name, "0").strip():
            del environment[name]
        _number(environment, name)


def read_world(environment: MutableMapping[str, str], asked: Asked, say: Callable[[str], None]) -> World:
    """Return the world to train in; what announces none is taken out of the environment, so that no library follows it.

    Args:
        environment: of this process.
        asked: what the keys say.
        say: told in a sentence which world is joined, and which variables are ignored.

    Raises:
        ConfigInvalid: what is announced contradicts itself or the keys.
    """
    world = _announced(environment, asked)
    if world is not None:
        _check(world, asked)
        if environment.get(_STARTED_BY) != str(os.getppid()):  # else this run's first process has said it for all
            say(f"process {world.rank} of {world.size}, by {world.launcher}; all meet at {world.address}:{world.port}")
        return world
    world = _own_world(environment, asked)
    _ignore(environment, asked, say)
    return world


def mark_children(environment: MutableMapping[str, str]) -> None:
    """Tell the processes that this one starts that it was a run that did; variables that stayed behind look the same otherwise."""
    environment[_STARTED_BY] = str(os.getpid())


@contextmanager
def kept_environment() -> Iterator[None]:
    """Put back in the end what the run took out, and what Lightning tells its children in the environment of this process.

    The next run of this process would take the latter for a world.
    """
    before = {name: os.environ.get(name) for name in _CHANGED}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _announced(environment: Mapping[str, str], asked: Asked) -> World | None:
    for read in (_by_torchrun, _by_hand, _by_srun, _by_mpi):
        if (world := read(environment, asked)) is not None:
            return world
    return None


def _by_torchrun(environment: Mapping[str, str], asked: Asked) -> World | None:
    """By torchrun, and by what sets the same: Kubeflow, torch.distributed's own `env://`."""
    rank, size = _number(environment, TORCHRUN.rank), _number(environment, TORCHRUN.size)
    if rank is None or size is None or not all(environment.get(name) for name in _MEETING):
        return None
    local_rank, local_size = (_number(environment, name) for name in (TORCHRUN.local_rank, TORCHRUN.local_size))
    if local_size is None:  # numbered on its machine, it has others there; else it has a machine of its own
        local_size = asked.devices or (1 if local_rank is None else max(size // asked.nodes, 1))
    local_rank = rank % max(local_size, 1) if local_rank is None else local_rank
    return World(size, rank, local_rank, local_size, TORCHRUN.launcher, *_meeting(environment))


def _by_hand(environment: Mapping[str, str], asked: Asked) -> World | None:
    """By Lightning, when one process starts the others, or by a person in the same way: numbered on their machine only."""
    local_rank = _number(environment, "LOCAL_RANK")
    size = _number(environment, "WORLD_SIZE") or (asked.size if asked.size > 1 else None)
    if local_rank is None or "RANK" in environment or size is None or not environment.get("MASTER_PORT"):
        return None
    local_size = max(size // asked.nodes, 1)
    rank = _node_rank(environment) * local_size + local_rank
    return World(size, rank, local_rank, local_size, _BY_HAND, *_meeting(environment))


def _by_srun(environment: Mapping[str, str], asked: Asked) -> World | None:
    """By srun: of an allocation in which it started nothing, only the numbers are there, but no step."""
    rank, local_rank = _number(environment, SRUN.rank), _number(environment, SRUN.local_rank)
    size = _number(environment, "SLURM_STEP_NUM_TASKS") or _number(environment, SRUN.size)
    step = any(environment.get(name) for name in ("SLURM_STEP_ID", "SLURM_STEPID"))
    if rank is None or local_rank is None or size is None or size == 1 or not step:
        return None
    if environment.get("SLURM_JOB_NAME") in _INTERACTIVE:
        return None
    local_size = _tasks_of_node(environment) or asked.devices or size // asked.nodes
    return World(size, rank, local_rank, local_size, SRUN.launcher, *_meeting_of_slurm(environment))


def _by_mpi(environment: Mapping[str, str], asked: Asked) -> World | None:
    """By MPI, if the variables say, too, where torch's processes meet."""
    for scheme in _MPI:
        rank, size = _number(environment, scheme.rank), _number(environment, scheme.size)
        if rank is None or size is None or size == 1 or not all(environment.get(name) for name in _MEETING):
            continue
        local_size = _number(environment, scheme.local_size) or asked.devices or max(size // asked.nodes, 1)
        local_rank = _number(environment, scheme.local_rank)
        local_rank = rank % local_size if local_rank is None else local_rank
        return World(size, rank, local_rank, local_size, scheme.launcher, *_meeting(environment))
    return None


def _own_world(environment: Mapping[str, str], asked: Asked) -> World:
    """A world whose processes this one starts, on its machine; the other machines are told by hand which one they are."""
    local_size = asked.devices or asked.here
    if asked.nodes == 1:
        chosen = asked.size > 1 and environment.get("MASTER_PORT")
        return World(asked.size, 0, 0, local_size, None, LOOPBACK, _meeting(environment)[1] if chosen else 0)
    if not environment.get("MASTER_PORT"):
        raise ConfigInvalid(
            f"nodes={asked.nodes}, but nothing says where the machines meet; start the run on each with torchrun or srun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK."
        )
    node = _node_rank(environment)
    if node >= asked.nodes:
        raise ConfigInvalid(
            f"NODE_RANK is {node}, but there are nodes={asked.nodes}, counted from 0; correct one of them."
        )
    announced = _number(environment, "WORLD_SIZE")
    if announced is not None and announced != asked.size:
        raise ConfigInvalid(
            f"WORLD_SIZE is {announced}, but devices and nodes make {asked.size}; unset it, or let them agree."
        )
    return World(asked.size, node * local_size, 0, local_size, None, *_meeting(environment))


def _check(world: World, asked: Asked) -> None:
    """Raise ConfigInvalid where a world contradicts itself or the keys."""
    by = "the environment" if world.launcher == _BY_HAND else world.launcher
    if world.size < 1 or world.local_size < 1 or world.rank >= world.size or world.local_rank >= world.local_size:
        raise ConfigInvalid(
            f"by {by} this is process {world.rank} of {world.size}, and {world.local_rank} of {world.local_size} on its machine, "
            "counted from 0, which cannot be; unset these variables (RANK, LOCAL_RANK, WORLD_SIZE and the like), or start all "
            "processes anew."
        )
    if world.size % world.local_size:
        raise ConfigInvalid(
            f"by {by} there are {world.size} processes, {world.local_size} of them on this machine; start as many on each machine."
        )
    if asked.firm and ((asked.devices and asked.size != world.size) or asked.nodes not in (1, world.nodes)):
        devices = "auto" if asked.devices is None else asked.devices
        raise ConfigInvalid(
            f"by {by} there are {world.size} processes, but devices={devices} and nodes={asked.nodes}; leave both out, or let them "
            f"agree (devices={world.local_size}, nodes={world.nodes}), or unset the variables if nothing has started several processes."
        )


def _ignore(environment: MutableMapping[str, str], asked: Asked, say: Callable[[str], None]) -> None:
    """Take out what announces no world, and say so where somebody may have meant one."""
    left = {name: environment.pop(name) for name in _NUMBERS if name in environment and _is_left(name, asked)}
    for scheme in (SRUN, *_MPI):
        rank, size = _number(environment, scheme.rank), _number(environment, scheme.size)
        if (rank or 0) > 0 or (size or 1) > 1:
            left |= {name: environment[name] for name in (scheme.rank, scheme.size) if name in environment}
        environment.pop(scheme.rank, None)
    if asked.nodes == 1:
        environment.pop("MASTER_ADDR", None)  # on one machine its processes meet on it, wherever an earlier run met
    if any(value and not value.startswith("-") for value in left.values()):  # -1 is how some programs write "none"
        shown = ", ".join(f"{name}={value}" for name, value in left.items())
        say(
            f"ignoring {shown}: no launcher announces a world here, with the size and the place to meet (MASTER_ADDR, MASTER_PORT), "
            "so this run has the processes that its keys ask for; unset these variables, or start all processes with torchrun or srun"
        )


def _is_left(name: str, asked: Asked) -> bool:
    """Where a person starts a run on several machines, these say on which."""
    return asked.nodes == 1 or name not in (*NODE_RANKS, "WORLD_SIZE")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A number of a process or of processes; None where there is none, or a negative one, which some programs set for none."""
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise ConfigInvalid(
            f"{name} is {text!r}, which numbers no process; unset it, or start all processes with torchrun or srun."
        )
    return int(text) if int(text) >= 0 else None


def _node_rank(environment: Mapping[str, str]) -> int:
    return next((number for name in NODE_RANKS if (number := _number(environment, name)) is not None), 0)


def _meeting(environment: Mapping[str, str]) -> tuple[str, int]:
    text = environment["MASTER_PORT"]
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        raise ConfigInvalid(f"MASTER_PORT is {text!r}, which is no port; take one of 1 to 65535 that is free.")
    return environment.get("MASTER_ADDR") or LOOPBACK, int(text)


def _meeting_of_slurm(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where MASTER_ADDR and MASTER_PORT do not say: on the first machine of the step, at a port that the job's number gives."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or LOOPBACK
    first = re.sub(r"\[([^],-]*)[^]]*\]", r"\1", nodes).split(",")[
        0
    ]  # `host[03-05,9]` and `host03,host04` both begin with host03
    job = re.sub(r"\D", "", environment.get("SLURM_JOB_ID", ""))[-4:]
    place = {"MASTER_ADDR": first, "MASTER_PORT": str(_SLURM_FIRST_PORT + int(job or 0))}
    return _meeting(place | {name: environment[name] for name in _MEETING if environment.get(name)})


def _tasks_of_node(environment: Mapping[str, str]) -> int | None:
    """How many tasks the step has on this machine: of `2(x3),1`, 2 on the first three and 1 on the fourth."""
    text = environment.get(SRUN.local_size) or environment.get("SLURM_NTASKS_PER_NODE") or ""
    counts = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
        for _ in range(min(int(times or 1), 2**16))
    ]
    node = _number(environment, "SLURM_NODEID") or 0
    return counts[min(node, len(counts) - 1)] if counts else None
