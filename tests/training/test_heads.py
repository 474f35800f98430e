from __future__ import annotations

import copy

import torch
import torch.nn.functional as F

from training.heads import ProjectionHead


def test_scores_are_cosines_with_the_prototypes() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(6, prototypes=9, hidden=8, bottleneck=4)
    x = torch.randn(3, 6)
    expected = F.normalize(head.mlp(x), dim=-1) @ F.normalize(head.last_layer.weight, dim=-1).T
    assert torch.allclose(head(x), expected, atol=1e-6)
    assert head(x).abs().max() <= 1 + 1e-5


def test_the_length_of_the_prototypes_trains_only_when_asked() -> None:
    names = {name for name, p in ProjectionHead(6, 9, 8, 4).named_parameters() if p.requires_grad}
    trainable = {
        name for name, p in ProjectionHead(6, 9, 8, 4, trainable_norm=True).named_parameters() if p.requires_grad
    }
    assert trainable - names == {"last_layer.parametrizations.weight.original0"}
    assert not names - trainable


def test_a_copy_of_a_head_scores_alike() -> None:
    head = ProjectionHead(6, 9, 8, 4)
    x = torch.randn(3, 6)
    assert torch.equal(copy.deepcopy(head)(x), head(x))


def test_no_rows_in_no_rows_out() -> None:
    assert ProjectionHead(6, 9, 8, 4)(torch.zeros(0, 6)).shape == (0, 9)


def test_a_vector_too_small_for_half_precision_is_still_normalised() -> None:
    head = ProjectionHead(6, 9, 8, 4)
    with torch.no_grad():
        head.mlp[-1].weight.mul_(1e-6)
    scores = head.to(torch.bfloat16).float()(torch.randn(3, 6))
    assert scores.abs().max() > 0.01
