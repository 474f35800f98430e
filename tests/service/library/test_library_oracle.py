"""The library against a dictionary: random operations and restarts, and after each the two must agree."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from faults.library.operations import operate
from faults.library.small import small
from faults.library.world import OPERATIONS, World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

SEED = 20_261_123
LEAST_RECALL = 0.99  # what the library promises of searches that need not be exact


class LibraryMachine(RuleBasedStateMachine):
    """Each operation of a World is a rule; hypothesis draws its random numbers and makes a failure small."""

    def __init__(self) -> None:
        super().__init__()
        self.small = small()
        self.small.__enter__()
        self.directory = Path(tempfile.mkdtemp())
        self.world = World(self.directory)

    def teardown(self) -> None:
        self.world.close()
        shutil.rmtree(self.directory)
        self.small.__exit__(None, None, None)

    @invariant()
    def counts_agree(self) -> None:
        self.world.counts_agree()


def a_rule(operation: Callable[[World, Random], None]) -> Callable[..., None]:
    def run(self: LibraryMachine, draw: Random) -> None:
        operation(self.world, draw)

    run.__name__ = operation.__name__
    return rule(draw=st.randoms(note_method_calls=True))(run)


for each in OPERATIONS:
    setattr(LibraryMachine, each.__name__, a_rule(each))

LibraryMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestLibraryAgainstADictionary = LibraryMachine.TestCase


def test_two_thousand_operations_with_restarts_agree_with_a_dictionary(tmp_path: Path) -> None:
    assert operate(tmp_path / "data", operations=2_000, seed=SEED).recall >= LEAST_RECALL
