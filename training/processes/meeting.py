"""The place where the processes of a run meet, looked at before they go there: its name has an address, and its port is free."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from training.errors import CannotMeet
from training.processes.world import World

NAME_WAIT_S = 20.0  # for the first machine's name to appear: where containers start together, theirs come seconds after the processes


def check_meeting(world: World, say: Callable[[str], None], wait_s: float = NAME_WAIT_S) -> None:
    """Return when the name of the machine where all meet has an address, and its port is free; a single process meets nobody.

    Raises:
        CannotMeet: the name has no address by the end of `wait_s`, or the port is in use.
    """
    if world.size == 1:
        return
    _wait_for_name(world, say, wait_s)
    by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE")  # then it is torchrun that listens there
    if world.is_first and world.port and not by_torchrun:
        with socket.socket() as listener:
            # An earlier run's last words are no listener.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("", world.port))
            except OSError as error:
                raise port_in_use(world.port) from error


def port_in_use(port: int) -> CannotMeet:
    """Return the error for it; 0 where the port is not known."""
    return CannotMeet(
        f"the processes of the run cannot meet: port {port or 'MASTER_PORT'} is in use; set MASTER_PORT to one that is free, for all "
        "of them."
    )


def _wait_for_name(world: World, say: Callable[[str], None], wait_s: float) -> None:
    deadline, told = time.monotonic() + wait_s, False
    while (error := _lookup(world)) is not None:
        if not told:
            say(f"waiting for {world.address} (MASTER_ADDR) to have an address")
            told = True
        if time.monotonic() >= deadline:
            raise CannotMeet(
                f"the processes of the run cannot meet: {world.address} (MASTER_ADDR) has no address; name the machine of the first "
                "process."
            ) from error
        time.sleep(min(0.5, wait_s))


def _lookup(world: World) -> Exception | None:
    try:
        socket.getaddrinfo(world.address, world.port)
    except (OSError, UnicodeError) as error:
        return error
    return None
