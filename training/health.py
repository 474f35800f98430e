"""Is the representation still alive? Four numbers that need no labels, each with a known value at both ends of its scale.

Legend: B images, M targets, K prototypes, D width. Everything is computed in at least float32, without
gradients, on this process's rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.precision import at_least_float32


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
