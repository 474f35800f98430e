"""`dinodex` with one thing more: the first rank keeps the gradients of its first steps, as they are before clipping.

python record_gradients.py FOLDER float32|float64 train DATA ...

In float64 no artifact is written: it would be one of float32.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import training.module
import training.run
from dinodex.cli import app
from training.gradients import clip_gradients
from training.ranks import rank
from training.views import normalised

STEPS = 2
folder = Path(sys.argv[1])
kept = [0]


def keep_and_clip(student: torch.nn.Module, *limits: object) -> torch.Tensor:
    """Write the gradients to FOLDER/gradients-STEP.pt, then clip them."""
    if rank() == 0 and kept[0] < STEPS:
        gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
        torch.save(gradients, folder / f"gradients-{kept[0]}.pt")
        kept[0] += 1
    return clip_gradients(student, *limits)  # type: ignore[arg-type]


if __name__ == "__main__":
    training.module.clip_gradients = keep_and_clip
    if sys.argv[2] == "float64":
        torch.set_default_dtype(torch.float64)
        training.module.normalised = lambda pixels: normalised(pixels).double()
        training.run.export_checkpoint = lambda *_, **__: None
    app(sys.argv[3:])  # the further processes of the run are started with this command line, so it stays as it is
