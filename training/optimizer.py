"""The optimizer of a run: AdamW over groups of parameters that are treated alike."""

from __future__ import annotations

import torch
from torch import nn

from training.config import TrainingConfig
from training.parameter_groups import parameter_groups


def make_optimizer(student: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with PyTorch's betas and epsilon, as both papers have them; `write_schedule` sets its rates before every step.

    Args:
        student: a `method.Network`; what does not require gradients is left out.
        config: resolved keys.
    """
    assert config.layer_decay is not None
    assert config.patch_embed_lr is not None
    blocks = getattr(student.backbone, "blocks", ())
    return torch.optim.AdamW(parameter_groups(student, len(blocks), config.layer_decay, config.patch_embed_lr), lr=0.0)
