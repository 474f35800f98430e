from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from training.evaluation.linear_probe import WEIGHT_DECAYS, fit, hold_out, score_linear


def blobs(count: int, noise: float = 1.5, crowd: float = 0.5, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Unit vectors [count, 12] in four classes, some directions ten times as wide as others; `crowd` moves all towards one point."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, 12))
    labels = np.arange(count) % 4
    x = (centres[labels] + noise * generator.normal(size=(count, 12))) * np.geomspace(1, 0.1, 12) + crowd
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def objective(x: NDArray, labels: NDArray, weight: NDArray, bias: NDArray, decay: float) -> float:
    logits = x @ weight.T + bias
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(-np.mean(log_p[np.arange(len(x)), labels]) + decay / 2 * np.sum(weight**2))


@pytest.mark.parametrize("crowd", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("decay", WEIGHT_DECAYS)
def test_a_fit_reaches_the_loss_and_the_answers_of_scikit_learn(decay: float, crowd: float) -> None:
    x, labels = blobs(300, crowd=crowd)
    wide = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean(wide**2))
    wide /= scale
    oracle = LogisticRegression(C=1 / (len(x) * decay), tol=1e-10, max_iter=20_000).fit(wide, labels)
    found = fit(x, labels, decay)

    weight = found.weight.numpy() * scale
    bias = found.bias.numpy() + found.weight.numpy() @ x.mean(axis=0, dtype=np.float64)
    bias -= bias.mean() - oracle.intercept_.mean()  # a number added to all of them changes nothing
    reached = objective(wide, labels, weight, bias, decay)
    least = objective(wide, labels, oracle.coef_, oracle.intercept_, decay)
    assert reached == pytest.approx(least, rel=1e-7)
    np.testing.assert_array_equal(found.predict(x), oracle.predict(wide))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = blobs(200)
    whole = fit(x, labels, 1e-2)
    monkeypatch.setattr("training.evaluation.linear_probe.BLOCK_LOGITS", 4 * 7)  # seven rows at once
    parts = fit(x, labels, 1e-2)
    np.testing.assert_allclose(parts.weight, whole.weight, atol=1e-6)
    np.testing.assert_array_equal(parts.predict(x), whole.predict(x))


def test_one_image_in_five_of_each_class_chooses_and_each_class_keeps_one() -> None:
    labels = np.array([0] * 20 + [1] * 21 + [2] * 2 + [3])
    chosen = hold_out(labels, seed=0)
    assert [int(chosen[labels == c].sum()) for c in range(4)] == [4, 5, 1, 0]
    np.testing.assert_array_equal(chosen, hold_out(labels, seed=0))
    assert (chosen != hold_out(labels, seed=1)).any()


def test_the_penalty_is_chosen_without_the_validation_images() -> None:
    x, labels = blobs(200, noise=3.0)
    queries, query_labels = blobs(100, noise=3.0, seed=1)
    one = score_linear(x, labels, queries, query_labels)
    other = score_linear(x, labels, -queries, (query_labels + 1) % 4)
    assert (one.weight_decay, one.grid) == (other.weight_decay, other.grid)
    assert one.accuracy != other.accuracy
    assert one.grid[f"{one.weight_decay:g}"] == max(one.grid.values())
    assert [float(name) for name in one.grid] == list(WEIGHT_DECAYS)


def test_the_accuracy_is_that_of_a_fit_of_all_training_vectors_with_the_chosen_penalty() -> None:
    x, labels = blobs(200, noise=3.0)
    queries, query_labels = blobs(100, noise=3.0, seed=1)
    scores = score_linear(x, labels, queries, query_labels)
    expected = np.mean(fit(x, labels, scores.weight_decay).predict(queries) == query_labels)
    assert scores.accuracy == pytest.approx(expected)
    assert 0.3 < scores.accuracy < 1.0


def test_of_equal_penalties_the_strongest_is_chosen() -> None:
    x, labels = blobs(200, noise=0.01)
    scores = score_linear(x, labels, x, labels)
    assert set(scores.grid.values()) == {1.0}
    assert scores.weight_decay == WEIGHT_DECAYS[0]
    assert scores.accuracy == 1.0


def test_with_one_image_a_class_the_middle_of_the_grid_is_taken() -> None:
    x, labels = blobs(4, noise=0.01)
    scores = score_linear(x, labels, x, labels)
    assert scores.grid == {}
    assert scores.weight_decay == WEIGHT_DECAYS[3] == 1e-4


def test_vectors_that_are_all_equal_give_the_most_frequent_class() -> None:
    x = np.full((30, 4), 0.5, dtype=np.float32)
    labels = np.array([0] * 10 + [1] * 20)
    assert score_linear(x, labels, x, labels).accuracy == pytest.approx(2 / 3)


def test_a_class_that_the_training_images_lack_is_never_found() -> None:
    x, labels = blobs(100)
    assert score_linear(x, labels, x, np.full(100, 4)).accuracy == 0.0
