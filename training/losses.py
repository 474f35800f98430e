"""The losses of DINO, iBOT and KoLeo, and the teacher's targets, as free functions.

DINO: Caron et al. 2021 (arXiv:2104.14294). iBOT: Zhou et al. 2022 (arXiv:2111.07832). KoLeo: Sablayrolles et al. 2019
(arXiv:1806.03198). How DINOv2 puts them together: Oquab et al. 2024 (arXiv:2304.07193).

Legend: B images, V views, T teacher views, M masked patches, K prototypes, D width. Everything is computed in at least float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distributed import all_max, all_sum
from training.precision import at_least_float32, full_precision, highest_precision

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


def koleo_loss(x: Tensor, bank: Tensor | None = None, offset: int = 0) -> Tensor:
    """Spread vectors apart: minus the mean logarithm of each one's distance to its nearest neighbour (equation 2).

    The gradient moves a vector and its neighbour alike. The vectors of one process are their own neighbours by default, as in the
    paper; with the rows of all ranks as `bank`, the mean over the ranks is the loss of one process that holds all images.

    Args:
        x: [B, D]; normalised here.
        bank: [M, D] vectors among which neighbours are sought; normalised here.
        offset: the row of `bank` that is row 0 of `x`, and so on for the next rows; no vector is its own neighbour.

    Returns:
        A scalar; 0 where `bank` has fewer than two vectors. Exact duplicates give the (finite) logarithm of `KOLEO_FLOOR` and no
        gradient.

    Raises:
        ValueError: the rows of `x` are not all in `bank`.
    """
    bank = x if bank is None else bank
    if not 0 <= offset <= len(bank) - len(x):
        raise ValueError(f"{len(x)} rows from row {offset} on are not all in a bank of {len(bank)}.")
    if len(x) == 0 or len(bank) < 2:
        # Connected to the graph, so that every rank's backward pass has the same shape.
        return (at_least_float32(x).sum() + at_least_float32(bank).sum()) * 0.0
    # In float64: a fresh ViT-S with a LayerScale of 1e-5 puts 16 images 2e-5 apart; in float32 only 1 of them found its neighbour.
    with full_precision(x):
        z, others = (F.normalize(highest_precision(rows), dim=-1) for rows in (x, bank))
        with torch.no_grad():
            similarity = z @ others.T  # [B, M]
            similarity.diagonal(offset).fill_(-2.0)
            neighbour = similarity.argmax(dim=1)
        squared = (z - others[neighbour]).square().sum(dim=-1)
        loss = -0.5 * squared.clamp_min(KOLEO_FLOOR**2).log().mean()
    return loss.to(at_least_float32(x).dtype)


@torch.no_grad()
def softmax_targets(scores: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Teacher probabilities by centring and sharpening: softmax((scores - centre) / temperature) (equation 1 and section 3.1).

    Args:
        scores: [..., K] teacher scores.
        centre: [K] running mean of earlier batches' scores.
        temperature: the teacher's.
    """
    scores = at_least_float32(scores)
    # The highest score goes first: divided by a temperature of 0.02, the rounding of a score near 1 would be 3e-6 of a probability.
    below = (scores - scores.amax(dim=-1, keepdim=True)).sub_(centre)
    return F.softmax(below.div_(temperature), dim=-1)


def score_sums(scores: Tensor, centre: Tensor) -> Tensor:
    """Return what a centre needs of a batch: the sum of the scores and how many there are; sums of several batches may be added.

    Args:
        scores: [M, K] teacher scores of this rank; M may be 0.
        centre: [K], whose type the sums get.

    Returns:
        [K + 1], the number of rows last.
    """
    rows = centre.new_full((1,), float(len(scores)))
    return torch.cat([scores.to(centre.dtype).sum(dim=0), rows])


def centre_moved_by(centre: Tensor, sums: Tensor, momentum: float = 0.9) -> Tensor:
    """Return the centre after a step: momentum * centre + (1 - momentum) * mean score over all ranks (equation 4). A collective.

    Args:
        centre: [K].
        sums: [K + 1] this rank's `score_sums`; the number of rows may differ between ranks and may be 0. Without any row on any rank
            the centre stays.
        momentum: DINO found 0.9 to 0.999 equally good (appendix D).
    """
    total = all_sum(sums)
    rows = total[-1]
    moved = momentum * centre + (1.0 - momentum) * total[:-1] / rows.clamp_min(1.0)
    return torch.where(rows > 0, moved, centre)


@torch.no_grad()
def sinkhorn_targets(scores: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Teacher probabilities by Sinkhorn-Knopp: every prototype is used equally over the batch of all ranks (arXiv:2006.09882, 3.1).

    Args:
        scores: [M, K] teacher scores of this rank; M may differ between ranks and may be 0.
        temperature: the teacher's.
        iterations: rounds of normalising prototypes, then samples; 3 as in SwAV and DINOv2. At least 1.

    Returns:
        [M, K] rows that sum to one.
    """
    # The first round is on logarithms: exp(score / temperature) overflows float32 from a score of 3.5 at a temperature of 0.04.
    # After it no sum can vanish, whatever the scores: each prototype has a share of at least 1 / MK in some sample, and each
    # sample one of at least 1 / K of some prototype.
    log_q = (at_least_float32(scores) - _highest_of_all_ranks(scores)).div_(temperature)
    log_q -= all_sum(log_q.exp().sum(dim=0)).log()
    q = log_q.softmax(dim=1)
    for _ in range(iterations - 1):
        q /= all_sum(q.sum(dim=0))
        q /= q.sum(dim=1, keepdim=True)
    return q


def _highest_of_all_ranks(scores: Tensor) -> Tensor:
    """Each prototype's highest score: [K]."""
    if len(scores) == 0:
        return all_max(at_least_float32(scores.new_full(scores.shape[1:], -torch.inf)))
    return all_max(at_least_float32(scores.amax(dim=0)))
