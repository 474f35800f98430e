"""The Weights & Biases sink for the rows of a run, for who asks for it with wandb=PROJECT. Nothing else imports that package."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backbone.durable import read_file, write_file
from backbone.errors import PathMissing
from training.errors import ConfigInvalid
from training.metrics import Values

log = logging.getLogger(__name__)

ID_FILE = "wandb-id"  # in RUN
START_TIMEOUT_S = 30.0  # a service that is away may hold up the start for so long,
FINISH_TIMEOUT_S = 60.0  # and the end: what is not uploaded by then stays in RUN/wandb, for `wandb sync`


class WeightsAndBiases:
    """A sink for `metrics.Metrics`. A service that fails is logged once and does not stop the run."""

    def __init__(self, project: str, run: Path, config: Mapping[str, Any]) -> None:
        """Begin a curve, or go on with the one of this run where RUN has been here before.

        Points that a resumed run repeats are those that the service has already, and it drops them. WANDB_MODE=offline writes into
        RUN/wandb only. The account, the host and the like come from the environment, as that package documents them.

        Args:
            project: its name there.
            run: RUN.
            config: the resolved keys.

        Raises:
            ConfigInvalid: the package is not installed, or nobody is logged in.
            StorageFailed: the disk refused the identity of the curve.
        """
        try:
            import wandb
        except ImportError as error:
            raise ConfigInvalid(
                "wandb is set, but that package is not installed; run pip install 'dinodex[wandb]', or leave the key out."
            ) from error
        self._failed = False
        self._run: Any = None
        settings = wandb.Settings(
            console="off",  # it would take the terminal from the progress bar
            disable_git=True,  # of whatever repository the user stands in
            init_timeout=START_TIMEOUT_S,
            finish_timeout=FINISH_TIMEOUT_S,
        )
        identity = _identity(run)
        try:
            self._run = wandb.init(
                project=project,
                dir=run,
                id=identity,
                resume="allow",
                config=dict(config),
                allow_val_change=True,  # a resumed run may log at other steps
                reinit="create_new",  # another run of this Python process is none of ours
                settings=settings,
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise ConfigInvalid(
                f"wandb={project} cannot be used: {error}. Run `wandb login`, set WANDB_MODE=offline, or leave the key out."
            ) from error
        except Exception as error:  # noqa: BLE001 - see _bear
            self._report(error)

    def write(self, values: Values) -> None:
        """Send a row."""
        if self._run is not None:
            row = {key: value for key, value in values.items() if value is not None and key != "step"}
            self._bear(lambda: self._run.log(row, step=int(values["step"] or 0)))

    def close(self) -> None:
        """Send what is left, for at most `FINISH_TIMEOUT_S`."""
        if self._run is not None:
            self._bear(self._run.finish)

    def _bear(self, call: Callable[[], object]) -> None:
        """A network, a process and a service of somebody else are behind a call: whatever goes wrong there, the run goes on."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - its errors have no common root
            self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._failed:
            log.warning("Weights & Biases cannot be reached, the run goes on without it: %s", error)
        self._failed = True


def _identity(run: Path) -> str:
    """The name of this run's curve, kept in RUN: a resumed run finds its curve wherever the directory was moved, no other run does."""
    try:
        return read_file(run / ID_FILE).decode().strip()
    except PathMissing:
        name = uuid.uuid4().hex[:12]
        write_file(run / ID_FILE, name.encode())
        return name
