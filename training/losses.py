"""The losses of DINO, iBOT and KoLeo, and the teacher's targets, as free functions.

DINO: Caron et al. 2021 (arXiv:2104.14294). iBOT: Zhou et al. 2022 (arXiv:2111.07832). KoLeo: Sablayrolles et al. 2019
(arXiv:1806.03198). How DINOv2 puts them together: Oquab et al. 2024 (arXiv:2304.07193).

Legend: B images, V views, T teacher views, M masked patches, K prototypes, D width. Everything is computed in at least float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.precision import at_least_float32, full_precision
from training.ranks import all_max, all_sum, world_size

KOLEO_FLOOR = 1e-8  # the smallest distance whose logarithm is taken; below it, two vectors are the same image


def dino_loss(student: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy between every student view and every teacher view but its own, averaged over pairs and images (equation 3).

    Args:
        student: [V, B, K] scores; the first T views are those the teacher saw.
        targets: [T, B, K] teacher probabilities.
        temperature: the student's.

    Returns:
        A scalar; ln K where both sides are uniform.
    """
    log_p = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    views, images, _ = student.shape
    teachers = targets.shape[0]
    with full_precision(student):
        entropy = -torch.einsum("tbk,vbk->tv", targets.to(log_p.dtype), log_p) / images  # [T, V]
    same = torch.eye(teachers, views, dtype=torch.bool, device=student.device)
    return entropy.masked_fill(same, 0.0).sum() / (teachers * views - teachers)


def ibot_loss(student: Tensor, targets: Tensor, weights: Tensor, crops: int, temperature: float = 0.1) -> Tensor:
    """Cross-entropy at the masked patches: averaged over the patches of a crop, then over all crops, the unmasked ones included.

    Args:
        student: [M, K] scores at the masked patches.
        targets: [M, K] teacher probabilities at the same patches.
        weights: [M] one over the number of masked patches of the patch's crop.
        crops: number of global crops, masked or not (2B).
        temperature: the student's.

    Returns:
        A scalar; 0 without masked patches, still connected to `student`.
    """
    log_p = F.log_softmax(at_least_float32(student) / temperature, dim=-1)
    entropy = -(targets.to(log_p.dtype) * log_p).sum(dim=-1)  # [M]
    return (entropy * weights.to(log_p.dtype)).sum() / crops


def koleo_loss(x: Tensor) -> Tensor:
    """Spread vectors apart: minus the mean logarithm of each one's distance to its nearest neighbour in the batch (equation 2).

    Args:
        x: [B, D]; normalised here.

    Returns:
        A scalar; 0 for fewer than two vectors. Exact duplicates give the (finite) logarithm of `KOLEO_FLOOR` and no gradient.
    """
    if x.shape[0] < 2:
        return x.sum() * 0.0  # connected to the graph, so that every rank's backward pass has the same shape
    with full_precision(x):
        z = F.normalize(at_least_float32(x), dim=-1)
        with torch.no_grad():
            neighbour = (z @ z.T).fill_diagonal_(-2.0).argmax(dim=1)
        squared = (z - z[neighbour]).square().sum(dim=-1)
        return -0.5 * squared.clamp_min(KOLEO_FLOOR**2).log().mean()


def softmax_targets(scores: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Teacher probabilities by centring and sharpening: softmax((scores - centre) / temperature) (equation 1 and section 3.1).

    Args:
        scores: [..., K] teacher scores.
        centre: [K] running mean of earlier batches' scores.
        temperature: the teacher's.
    """
    return F.softmax((at_least_float32(scores) - centre) / temperature, dim=-1)


def moved_centre(centre: Tensor, scores: Tensor, momentum: float = 0.9) -> Tensor:
    """Return the centre after this batch: momentum * centre + (1 - momentum) * mean score over all ranks (equation 4).

    Args:
        centre: [K].
        scores: [M, K] teacher scores of this rank; M may differ between ranks and may be 0.
        momentum: DINO found 0.9 to 0.999 equally good (appendix D).
    """
    total = all_sum(scores.to(centre.dtype).sum(dim=0))
    count = all_sum(torch.tensor(float(scores.shape[0]), dtype=centre.dtype, device=centre.device))
    moved = momentum * centre + (1.0 - momentum) * total / count.clamp_min(1.0)
    return torch.where(count > 0, moved, centre)


@torch.no_grad()
def sinkhorn_targets(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities by Sinkhorn-Knopp: every prototype is used equally over the batch of all ranks (arXiv:2006.09882, 3.1).

    Computed on logarithms: exp(score / temperature) would overflow float32 from a score of 3.5 at a temperature of 0.04.

    Args:
        scores: [M, K] teacher scores of this rank; M may differ between ranks and may be 0.
        temperature: the teacher's.
        iterations: rounds of normalising prototypes, then samples; 3 as in SwAV and DINOv2.

    Returns:
        [M, K] rows that sum to one.
    """
    log_q = at_least_float32(scores) / temperature
    for _ in range(iterations):
        log_q = log_q - _log_sum_over_samples(log_q)
        if log_q.shape[0]:
            log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


def _log_sum_over_samples(log_q: Tensor) -> Tensor:
    """Logarithm of the sum over the rows of all ranks, for each prototype: [K]."""
    samples, prototypes = log_q.shape
    if samples:
        highest = log_q.amax(dim=0)
    else:
        highest = log_q.new_full((prototypes,), -torch.inf)
    highest = all_max(highest)
    if world_size() == 1 and not samples:
        return log_q.new_zeros(prototypes)
    return highest + all_sum((log_q - highest).exp().sum(dim=0)).log()
