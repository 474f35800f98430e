"""The linear probe: how well do the classes of frozen vectors come apart by planes?

Multinomial logistic regression with an L2 penalty, fitted on all vectors at once by L-BFGS, the penalty chosen on a part of the
training vectors: the protocol of CLIP (Radford et al. 2021, arXiv:2103.00020, appendix A.3). Unlike a probe trained by SGD it has one
optimum and no learning rate, so that a number does not depend on luck.

The vectors are centred, which the intercept makes up for, and divided by one number, so that a coordinate's mean square is one. Nothing
but the meaning of the penalty changes, and it becomes the same for vectors that fill the sphere and for those that crowd together.
Coordinates are not standardised one by one: that would raise those that hardly vary to the weight of the others, and the space in which
the service measures cosines would not be the one that is judged.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.randomness import seed_of

log = logging.getLogger(__name__)

# Strong to weak, for coordinates of mean square one; a factor of ten moves the accuracy by a percent or two.
WEIGHT_DECAYS = (
    1e-1,  # a few images a class, and more coordinates than images
    1e-2,  # tens of images a class
    1e-3,  # hundreds
    1e-4,  # scikit-learn's default on 10,000 images
    1e-5,  # what a class is stands in directions that hardly vary, as after a short training: best on 8,000 images of clothes
    1e-6,  # hundreds of thousands of images: the data alone decide
)
HELD_OUT = (
    5  # of each class one training image in five chooses the penalty: enough to tell neighbours in the grid apart
)
MAX_ITERATIONS = 1000  # CLIP's; most fits need fewer than 200
GRADIENT_TOLERANCE = 1e-5  # of the largest entry, where the curvature is about one: the loss is at its least to 1e-7
GRID_TOLERANCE = 1e-4  # while choosing: half the steps, and the accuracies are right to 0.1 %
HISTORY = 10  # steps that L-BFGS remembers, as in most implementations
BLOCK_LOGITS = 2**24  # held at once: 128 MiB of float64


@dataclass(frozen=True)
class LinearScores:
    """Accuracies from 0 to 1. grid: by weight decay as text, on the held-out part of the training images; empty if there was none."""

    accuracy: float
    weight_decay: float
    grid: dict[str, float]


@dataclass(frozen=True)
class LinearClassifier:
    """Planes over the vectors as they are: logits = x @ weight.T + bias. weight: float64 [C, D]; bias: float64 [C]."""

    weight: Tensor
    bias: Tensor

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the most probable class of each of the vectors [n, D]."""
        step = max(1, BLOCK_LOGITS // len(self.bias))
        blocks = torch.split(torch.from_numpy(vectors), step)
        found = [(x.to(self.weight) @ self.weight.T + self.bias).argmax(dim=1).cpu() for x in blocks]
        return torch.cat(found).numpy()


def score_linear(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    query_labels: NDArray[np.int64],
    seed: int = 0,
    device: torch.device | None = None,
) -> LinearScores:
    """Choose the weight decay on a held-out part of the training vectors, fit all of them with it, and score the queries.

    Args:
        vectors: [M, D] training vectors of at least two classes.
        labels: [M].
        queries: [Q, D]; they choose nothing.
        query_labels: [Q]; a class that the training vectors lack is never predicted.
        seed: of the held-out part.
        device: where the fits are computed; the CPU where it is None.
    """
    held_out = hold_out(labels, seed)
    grid: dict[float, float] = {}
    if held_out.any():
        for decay in WEIGHT_DECAYS:
            fitted = fit(vectors[~held_out], labels[~held_out], decay, device, GRID_TOLERANCE)
            grid[decay] = float(np.mean(fitted.predict(vectors[held_out]) == labels[held_out]))
    # Of equals the first, which is the strongest and so the simplest; without a held-out part the middle of the grid.
    decay = max(grid, key=grid.__getitem__) if grid else WEIGHT_DECAYS[len(WEIGHT_DECAYS) // 2]
    found = fit(vectors, labels, decay, device).predict(queries)
    return LinearScores(float(np.mean(found == query_labels)), decay, {f"{d:g}": a for d, a in grid.items()})


def hold_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Choose one in `HELD_OUT` of each class, rounded up; a class of one is kept whole. Equal seeds choose equal ones."""
    generator = np.random.default_rng(seed_of("linear probe", seed))
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) > 1:
            chosen[generator.permutation(members)[: -(-len(members) // HELD_OUT)]] = True
    return chosen


def fit(
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    weight_decay: float,
    device: torch.device | None = None,
    tolerance: float = GRADIENT_TOLERANCE,
) -> LinearClassifier:
    """Minimise mean cross-entropy + weight_decay / 2 * |W|^2, W over centred vectors of mean square one, the bias free.

    Args:
        vectors: [n, D].
        labels: [n]; there are max + 1 classes.
        weight_decay: the penalty; scikit-learn's C is 1 / (n * weight_decay).
        device: the CPU where it is None.
        tolerance: the largest entry of the gradient at which it is done.
    """
    x = torch.from_numpy(vectors).to(device=device, dtype=torch.float64)  # float32 stalls before the gradient is small
    y = torch.from_numpy(labels).to(x.device)
    mean = x.mean(dim=0)
    x -= mean
    scale = x.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)  # all vectors equal: the bias decides
    x /= scale
    classes = int(y.max()) + 1
    # The same objective in coordinates in which it curves alike in all directions, as L-BFGS likes it: at W = 0 the curvature is
    # that of the covariance / C plus the penalty. Vectors that crowd in a few directions would otherwise take thousands of steps.
    variance, axes = torch.linalg.eigh(x.T @ x / len(x))
    axes *= (variance.clamp_min(0) / classes + weight_decay).rsqrt()  # [D, D]; W = U @ axes.T
    x = x @ axes
    parameters = x.new_zeros(classes, x.shape[1] + 1)  # U and, in the last column, the bias
    _minimise(parameters, x, y, weight_decay * axes.square().sum(dim=0), tolerance)
    weight = parameters[:, :-1] @ axes.T / scale
    return LinearClassifier(weight, parameters[:, -1] - weight @ mean)


def _minimise(parameters: Tensor, x: Tensor, y: Tensor, penalty: Tensor, tolerance: float) -> None:
    """Bring `parameters` [C, D + 1] to the optimum, in place; `penalty` [D] is that of each column but the bias."""
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        history_size=HISTORY,
        tolerance_grad=tolerance,
        tolerance_change=0.0,  # the gradient alone says when it is done
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        loss, parameters.grad = _loss_and_gradient(parameters, x, y, penalty)
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    _, gradient = _loss_and_gradient(parameters, x, y, penalty)
    if (left := float(gradient.abs().max())) > 10 * tolerance:
        log.warning("a fit of the linear probe ended before its optimum, at a gradient of %.1e", left)


def _loss_and_gradient(parameters: Tensor, x: Tensor, y: Tensor, penalty: Tensor) -> tuple[float, Tensor]:
    """Compute the objective and its gradient [C, D + 1] block by block, so that C logits for each row never stand side by side."""
    weight, bias = parameters[:, :-1], parameters[:, -1]
    loss = 0.5 * float((penalty * weight.square()).sum())
    gradient = torch.zeros_like(parameters)
    step = max(1, BLOCK_LOGITS // len(parameters))
    for x_block, y_block in zip(torch.split(x, step), torch.split(y, step), strict=True):
        log_p = F.log_softmax(torch.addmm(bias, x_block, weight.T), dim=1)
        loss += float(F.nll_loss(log_p, y_block, reduction="sum")) / len(x)
        residual = log_p.exp_()
        residual[torch.arange(len(y_block), device=y.device), y_block] -= 1
        gradient[:, :-1] += residual.T @ x_block
        gradient[:, -1] += residual.sum(dim=0)
    gradient /= len(x)
    gradient[:, :-1] += penalty * weight
    return loss, gradient
