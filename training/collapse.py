"""The collapse alarm, for a representation that has become constant: four numbers that show it, what it means, and which key to turn.

Self-distillation has two trivial solutions, the same uniform target for every image and the same single prototype for every image
(Caron et al. 2021, arXiv:2104.14294, section 5.3: centring alone ends in the first, sharpening alone in the second). Behind either,
the backbone may give every image the same vector. All three are seen without labels, in numbers with a known value at both ends of
their scale.

Legend: B images, M targets, K prototypes, D width. The numbers are computed in at least float32, without gradients, on this process's
rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import Collapsed
from training.precision import at_least_float32

# Of `relative_entropy`: the probabilities of the prototypes then differ by some 6 %. Collapsed runs were measured at 0.9999 and
# higher; runs whose features went on to spread and to fill more dimensions stayed at 0.9990 to 0.9996 for a thousand steps. The loss is
# not asked as well: a cross-entropy is never below the entropy of its target, and with too high a learning rate it bounces above ln K.
UNIFORM = 0.9998
ONE_PROTOTYPE = 1.5  # prototypes in use: two that are used alike are 2
# Of `feature_std`: a network of random weights was measured at 0.47, runs with another collapse at 0.12 and more, runs
# whose vectors stayed equal at 0.0006.
ONE_VECTOR = 0.01


@torch.no_grad()
def relative_entropy(targets: Tensor) -> Tensor:
    """Mean entropy of the rows over its maximum ln K: how undecided the teacher is (arXiv:2104.14294, section 5.3).

    Args:
        targets: [M, K] probabilities; M and K at least 1.

    Returns:
        A scalar: 1 where every row is uniform, 0 where every row names one prototype (each row may name another). NaN for K = 1.
    """
    p = at_least_float32(targets)
    return torch.special.entr(p).sum(dim=-1).mean() / math.log(p.shape[-1])


@torch.no_grad()
def prototype_use(targets: Tensor) -> Tensor:
    """Share of the prototypes that the batch as a whole uses: exp(entropy of the mean row) / K, the perplexity over K.

    Args:
        targets: [M, K] probabilities.

    Returns:
        A scalar: 1 where all prototypes are used alike, 1/K where every row names the same one. M sharp rows use at most M/K.
    """
    mean = at_least_float32(targets).mean(dim=0)
    return torch.special.entr(mean).sum().exp() / len(mean)


@torch.no_grad()
def feature_std(tokens: Tensor) -> Tensor:
    """Standard deviation of the vectors' directions, over the most that it can be (SimSiam's measure: arXiv:2011.10566, section 4.1).

    Each row is scaled to length one; over the batch, a dimension then deviates by at most 1/sqrt(D) on average.

    Args:
        tokens: [B, D].

    Returns:
        A scalar: 1 where the vectors are spread evenly over the sphere, 0 where all point the same way. NaN for fewer than two vectors,
        which there is nothing to compare with.
    """
    if tokens.shape[0] < 2:
        return tokens.new_full((), math.nan, dtype=torch.float32)
    z = F.normalize(at_least_float32(tokens), dim=-1)
    # Of the population: with the sample's (B - 1) the scale would end above 1.
    return z.std(dim=0, correction=0).mean() * math.sqrt(z.shape[1])


@torch.no_grad()
def rank_me(tokens: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2023, arXiv:2210.02885, definition 3.1): exp(entropy of the singular values, scaled to sum to one).

    Computed on the CPU in float64: the matrix is small, and not every device knows the decomposition. It waits for the device, so take
    it once a row of the log, not once a step. The paper's epsilon, there to bear a logarithm of 0, is not needed.

    Args:
        tokens: [B, D].

    Returns:
        A scalar of float32 on the device of `tokens`: the number of dimensions that the vectors fill, 1 to min(B, D), so compare it
        between equal batches only; 0 where all vectors are zero or there are none, NaN where one is not finite.
    """
    z = tokens.detach().cpu().double()
    if not z.isfinite().all():
        rank = z.new_tensor(math.nan)  # the decomposition would raise
    else:
        singular = torch.linalg.svdvals(z)
        total = singular.sum()
        rank = torch.special.entr(singular / total).sum().exp() if total > 0 else z.new_zeros(())
    return rank.to(device=tokens.device, dtype=torch.float32)


@dataclass(frozen=True)
class Reason:
    """One way to collapse: its name, what it means, and what to do about it."""

    name: str
    meaning: str
    advice: str


ONE_VECTOR_REASON = Reason(
    "one vector",
    "the backbone gives all images the same vector",
    "set koleo_weight=0.1, which drives vectors apart, and lower lr",
)
ONE_PROTOTYPE_REASON = Reason(
    "one prototype",
    "the teacher gives all images the same prototype, so that targets are met without looking",
    "set centring=sinkhorn, which uses all prototypes alike, and lower lr; with centring=softmax raise teacher_temperature",
)
UNIFORM_REASON = Reason(
    "uniform",
    "the teacher finds every prototype equally likely for every image, so that the loss stays at ln(prototypes) and nothing is learnt",
    "lower teacher_temperature and teacher_temperature_start, set centring=sinkhorn, take a larger batch_size, fewer prototypes or a "
    "lower lr",
)


class CollapseAlarm:
    """Watches the rows of a run's log; warns at half the patience (in steps) and, if it `stops`, ends the run at its end.

    Patience counts the steps since the first of an unbroken series of rows that look collapsed; one healthy row ends the series. It
    should see rows from the end of the learning rate's warm-up only: an untrained teacher may well be uniform. A run that is resumed
    begins with its patience whole.
    """

    def __init__(self, prototypes: int, patience: int, *, stops: bool = True) -> None:
        self._prototypes, self._patience, self._stops = prototypes, patience, stops
        self._since: int | None = None  # step of the first row of the series
        self._warned = False

    def see(
        self, step: int, *, dino: float, teacher_entropy: float, prototype_use: float, feature_std: float
    ) -> str | None:
        """Take note of a row; a number that is NaN says nothing. Equal rows give equal answers on every rank.

        Args:
            step: steps taken; rows come in ascending order.
            dino: the DINO loss; only the messages tell it.
            teacher_entropy: `relative_entropy` of the targets.
            prototype_use: `prototype_use` of the targets.
            feature_std: `feature_std` of the teacher's global tokens.

        Returns:
            A warning for a person, once in a series, from half the patience on; else None.

        Raises:
            Collapsed: the patience is at its end.
        """
        reason = self._reason(teacher_entropy, prototype_use, feature_std)
        if reason is None:
            self._since, self._warned = None, False
            return None
        if self._since is None:
            self._since = step
        lasting = step - self._since
        numbers = (
            f"dino {dino:.4f} where ln(prototypes) is {math.log(self._prototypes):.4f}, teacher_entropy {teacher_entropy:.4f}, "
            f"prototype_use {prototype_use:.4f}, feature_std {feature_std:.4f}"
        )
        what = f"the representation looks collapsed ({reason.name}) since step {self._since}: {reason.meaning} ({numbers})."
        if self._stops and lasting >= self._patience:
            raise Collapsed(f"{what} The run is stopped at step {step}: {reason.advice}.")
        if self._warned or 2 * lasting < self._patience:
            return None
        self._warned = True
        left = max(self._patience - lasting, 0)
        threat = f"In {left} more steps of this the run is stopped; then" if self._stops else "To cure it"
        return f"{what} {threat} {reason.advice}."

    def _reason(self, entropy: float, use: float, std: float) -> Reason | None:
        """The deepest cause first: equal vectors make equal targets, whatever those are."""
        if std < ONE_VECTOR:
            return ONE_VECTOR_REASON
        if use * self._prototypes <= ONE_PROTOTYPE:
            return ONE_PROTOTYPE_REASON
        if entropy >= UNIFORM:
            return UNIFORM_REASON
        return None
