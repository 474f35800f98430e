"""Running sums of the steps since the last row of the log, over all ranks."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from training.collapse import feature_std, rank_me
from training.distributed import all_objects, all_sum, rank, world_size
from training.module import StepResult
from training.views import GLOBAL_VIEWS

SUMS = ("loss", "dino", "ibot", "koleo", "teacher_entropy", "prototype_use", "gradient_norm")

Row = dict[str, float | int | None]


@dataclasses.dataclass
class _Since:
    """The sums of this rank since the last row."""

    steps: list[Tensor] = dataclasses.field(default_factory=list)  # [7] for each step taken, in the order of `SUMS`
    images: int = 0  # of all ranks
    skipped: int = 0
    time_s: float = 0.0
    wait_s: float = 0.0


class Tally:
    """Counts steps, and sums them up to rows."""

    def __init__(self) -> None:
        self._since = _Since()
        self._tokens: Tensor | None = None  # [2B, D] the teacher's, of the last step

    def add(self, result: StepResult, images: int, time_s: float, wait_s: float) -> None:
        """Count one step of `images` images over all ranks, which took `time_s` with `wait_s` of waiting for them."""
        since = self._since
        since.images += images
        since.time_s += time_s
        since.wait_s += wait_s
        *scalars, self._tokens = result.losses
        if result.taken:
            since.steps.append(torch.stack([*scalars, result.gradient_norm]).detach().float())
        else:
            since.skipped += 1

    def row(self, device: torch.device) -> Row:
        """Return the means since the last row, and begin anew; a collective on `device`."""
        since, self._since = self._since, _Since()
        row: Row = {}
        if since.steps:  # all ranks take or skip the same steps
            total = all_sum(torch.stack([step.to(device) for step in since.steps]).sum(dim=0))
            means = (total / (len(since.steps) * world_size())).tolist()
            row.update(zip(SUMS, means, strict=True))
        if self._tokens is not None:
            first_view = self._tokens[
                : len(self._tokens) // GLOBAL_VIEWS
            ]  # two views of one image are alike by intention
            signs = torch.stack([feature_std(first_view).to(device), rank_me(self._tokens).to(device).float()])
            row["feature_std"], row["rank_me"] = (all_sum(signs) / world_size()).tolist()
        row["images_per_s"] = since.images / max(since.time_s, 1e-9)
        row["data_wait"] = since.wait_s / max(since.time_s, 1e-9)
        row["skipped"] = since.skipped
        return row

    def state(self) -> list[dict[str, Any]]:
        """Return what every rank has counted since the last row, for a checkpoint; a collective."""
        mine = dataclasses.asdict(self._since)
        mine["steps"] = [step.cpu() for step in self._since.steps]
        return all_objects(mine)

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go on from `state`; where the ranks are others than then, the row begins anew."""
        if len(state) == world_size():
            self._since = _Since(**state[rank()])
