"""The saver of checkpoints: when a run saves itself, and what a failed save means."""

from __future__ import annotations

import logging
from pathlib import Path

from backbone.errors import StorageFailed
from training.checkpoints import Checkpoint, write_checkpoint

log = logging.getLogger(__name__)

MAX_FAILED_SAVES = 3  # in a row; a full disk may be emptied, but not for ever


class Saver:
    """Writes checkpoints to RUN/checkpoints; a failure in the middle of a run is borne, at its end or the third time it is not."""

    def __init__(self, run: Path, every_s: float, keep: int) -> None:
        self._folder, self._every_s, self._keep = run / "checkpoints", every_s, keep
        self._last_s = 0.0
        self._failed = 0

    def begin(self, elapsed_s: float) -> None:
        """Count the time to the next save from here."""
        self._last_s = elapsed_s

    def is_due(self, elapsed_s: float) -> bool:
        """Say whether it is time: the same on all ranks, since they agree on `elapsed_s`."""
        return elapsed_s - self._last_s >= self._every_s

    def save(self, checkpoint: Checkpoint, *, must: bool) -> None:
        """Write a checkpoint.

        Raises:
            StorageFailed: the disk refused, and `must` holds or it was the third time in a row.
        """
        try:
            write_checkpoint(self._folder, checkpoint, self._keep)
        except StorageFailed as error:
            self._failed += 1
            if must or self._failed >= MAX_FAILED_SAVES:
                raise
            log.warning("no checkpoint at step %d, the run goes on: %s", checkpoint.step, error)
        else:
            self._failed = 0
