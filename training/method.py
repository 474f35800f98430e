"""Self-distillation without labels, DINO and DINOv2: views in, losses out. Plain PyTorch; any loop can drive it.

One step (arXiv:2104.14294, algorithm 1; arXiv:2304.07193, section 4):

    losses = method(global_views, local_views, masks, teacher_temperature)
    losses.total.backward()
    optimizer.step()                      # over method.student's parameters
    method.update_teacher(momentum)       # only after a step was taken; else method.skip_step()

Legend: B images, V = 2 + n views, N patches of a global view, M masked patches, K prototypes, D width. Views lie one after the other:
rows v*B to (v+1)*B are view v of all images.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from backbone.model import Backbone
from training.collapse import prototype_use, relative_entropy
from training.distributed import all_gather_rows, rank
from training.errors import ConfigInvalid
from training.heads import ProjectionHead
from training.losses import (
    centre_moved_by,
    dino_loss,
    ibot_loss,
    koleo_loss,
    score_sums,
    sinkhorn_targets,
    softmax_targets,
)
from training.views import GLOBAL_VIEWS


@dataclass(frozen=True)
class MethodConfig:
    """The objective: what is learnt. The recipe gives the values and their reasons (`recipes.py`)."""

    prototypes: int
    head_hidden: int
    head_bottleneck: int
    trainable_norm: bool
    ibot_head: Literal["shared", "separate"]
    student_temperature: float
    centring: Literal["softmax", "sinkhorn"]
    centre_momentum: float
    dino_weight: float
    ibot_weight: float
    koleo_weight: float
    koleo_over: Literal["process", "all"]


class Losses(NamedTuple):
    """The losses of one batch: scalars of which `total` is minimised and the parts are before their weights, and signs of health."""

    total: Tensor
    dino: Tensor
    ibot: Tensor
    koleo: Tensor
    teacher_entropy: Tensor  # of a target, over ln K: 1 says that all are uniform
    prototype_use: (
        Tensor  # share of the prototypes that the mean target is spread over: 1/K says that all images get the same one
    )
    teacher_tokens: Tensor  # [2B, D] what the teacher made of the global views


class Network(nn.Module):
    """A backbone with its heads; student and teacher are one of these each."""

    def __init__(self, backbone: Backbone, config: MethodConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = _head(backbone.dim, config)
        separate = config.ibot_weight > 0 and config.ibot_head == "separate"
        self.patch_head = _head(backbone.dim, config) if separate else None

    def scores(self, tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Score global tokens [R, D] and masked patches [M, D]: [R, K] and [M, K], in one pass where the head is shared."""
        if self.patch_head is not None:
            return self.head(tokens), self.patch_head(patches)
        both = self.head(torch.cat([tokens, patches]))
        return both[: len(tokens)], both[len(tokens) :]


class SelfDistillation(nn.Module):
    """A student that learns to predict what its own running average sees in other views of the same image."""

    centre: Tensor  # [K]
    patch_centre: Tensor  # [K]

    def __init__(self, backbone: Backbone, config: MethodConfig) -> None:
        super().__init__()
        if config.ibot_weight > 0 and not backbone.supports_masks:
            raise ConfigInvalid(
                f"ibot_weight is {config.ibot_weight}, but {backbone.architecture} has no patch tokens to mask; "
                "set ibot_weight=0 or take a ViT."
            )
        self.config = config
        self.student = Network(backbone, config)
        if config.ibot_weight == 0 and isinstance(token := getattr(backbone, "mask_token", None), nn.Parameter):
            token.requires_grad_(False)  # never used: DDP would wait for its gradient
        # A copy, heads included: a teacher with another random head would ask for targets that no view of an image explains.
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("patch_centre", torch.zeros(config.prototypes))
        # Since the last step:
        self._score_sums: Tensor | None = None  # [2, K + 1] of whole views and patches: the centres' next move
        self._buffers_before: list[Tensor] | None = None  # running statistics of batch normalisation, to go back to
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the student's mode; the teacher stays in evaluation mode, but for layers that normalise by the batch, as DINO's do."""
        super().train(mode)
        self.teacher.eval()
        for layer in self.teacher.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train(mode)
        return self

    def forward(
        self, global_views: Tensor, local_views: Tensor | None, masks: Tensor | None, teacher_temperature: float
    ) -> Losses:
        """Compute the losses of one batch.

        Args:
            global_views: [2B, 3, H, W] normalised pixels.
            local_views: [nB, 3, h, w], or None.
            masks: [2B, N] booleans, true where the student sees the mask token; None (or all false) for no iBOT.
            teacher_temperature: this step's.
        """
        if self.config.ibot_weight == 0:
            masks = None
        if self._buffers_before is None:
            self._buffers_before = [buffer.clone() for buffer in self._running_statistics()]
        picked, weights = _masked(masks, global_views.device)
        teacher_tokens, targets, patch_targets = self._teach(global_views, picked, teacher_temperature)

        tokens = self.student.backbone(global_views, masks if masks is None else masks.to(global_views.device))
        rows = [tokens.global_token]
        if local_views is not None and len(local_views):
            rows.append(self.student.backbone(local_views).global_token)
        patches = tokens.patch_tokens.flatten(0, 1)[picked]  # [M, D]
        scores, patch_scores = self.student.scores(torch.cat(rows), patches)

        config, images = self.config, len(global_views) // GLOBAL_VIEWS
        views, target_views = scores.view(-1, images, scores.shape[-1]), targets.view(GLOBAL_VIEWS, images, -1)
        dino = dino_loss(views, target_views, config.student_temperature)
        ibot = ibot_loss(patch_scores, patch_targets, weights, len(global_views), config.student_temperature)
        zero = dino.new_zeros(())
        koleo = zero
        if config.koleo_weight > 0:
            koleo = torch.stack([self._koleo(view) for view in tokens.global_token.chunk(GLOBAL_VIEWS)]).sum()
        total = config.dino_weight * dino + config.koleo_weight * koleo
        if config.ibot_weight > 0:
            total = total + config.ibot_weight * ibot
        signs = relative_entropy(targets), prototype_use(targets)
        return Losses(total, dino.detach(), ibot.detach(), koleo.detach(), *signs, teacher_tokens)

    def _koleo(self, view: Tensor) -> Tensor:
        """KoLeo of one view [B, D]: neighbours are looked for in this process's batch, or in those of all."""
        if self.config.koleo_over == "process":
            return koleo_loss(view)
        return koleo_loss(view, all_gather_rows(view), offset=rank() * len(view))

    @torch.no_grad()
    def _teach(self, views: Tensor, picked: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's tokens [2B, D] and probabilities for whole views [2B, K] and masked patches [M, K]; it sees every patch."""
        tokens = self.teacher.backbone(views)
        scores, patch_scores = self.teacher.scores(tokens.global_token, tokens.patch_tokens.flatten(0, 1)[picked])
        with_patches = self.config.ibot_weight > 0
        if self.config.centring == "sinkhorn":
            targets = sinkhorn_targets(scores, temperature)
            patch_targets = sinkhorn_targets(patch_scores, temperature) if with_patches else patch_scores
        else:
            # The centres of this step come from earlier steps only, so that a batch does not cancel itself.
            targets = softmax_targets(scores, self.centre, temperature)
            patch_targets = softmax_targets(patch_scores, self.patch_centre, temperature)
            sums = torch.stack([score_sums(scores, self.centre), score_sums(patch_scores, self.patch_centre)])
            self._score_sums = sums if self._score_sums is None else self._score_sums + sums
        return tokens.global_token.detach(), targets, patch_targets

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher's parameters towards the student's: momentum * teacher + (1 - momentum) * student. A collective.

        The centres move with it, by the scores of all batches since the last step. Other buffers are left alone: a teacher with batch
        normalisation keeps the statistics of what it saw itself.
        """
        average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
        average(list(self.teacher.parameters()), list(self.student.parameters()), None)
        if self._score_sums is not None:
            for centre, sums in zip((self.centre, self.patch_centre), self._score_sums, strict=True):
                centre.copy_(centre_moved_by(centre, sums, self.config.centre_momentum))
        self._score_sums = self._buffers_before = None

    @torch.no_grad()
    def skip_step(self) -> None:
        """Forget the batches since the last step: a number that is not finite must not stay in a centre or a running statistic."""
        for buffer, before in zip(self._running_statistics(), self._buffers_before or (), strict=False):
            buffer.copy_(before)
        self._score_sums = self._buffers_before = None

    def _running_statistics(self) -> list[Tensor]:
        return [*self.student.buffers(), *self.teacher.buffers()]


def _head(dim: int, config: MethodConfig) -> ProjectionHead:
    return ProjectionHead(
        dim, config.prototypes, config.head_hidden, config.head_bottleneck, trainable_norm=config.trainable_norm
    )


def _masked(masks: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of the masked patches in the flattened batch [M], and one over the number of them in the crop of each [M].

    Found where the masks are (on the CPU), so that no GPU has to be waited for.
    """
    if masks is None:
        return torch.empty(0, dtype=torch.long, device=device), torch.empty(0, device=device)
    counts = masks.sum(dim=1).clamp_min(1)  # [2B]
    weights = (1.0 / counts).unsqueeze(1).expand_as(masks)[masks]
    return masks.flatten().nonzero().squeeze(1).to(device), weights.to(device)
