"""Twenty steps whose losses are written down: whoever changes the mathematics, or the order of any draw, changes them.

They are computed in float64, so that another processor or another order of summation stays far below the tolerance. To write them
anew after an intended change, put what the failing test prints into `golden_losses.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from backbone.decode import DecodeLimits
from backbone.listing import list_images
from training.config import TrainingConfig, section
from training.images import TrainingImages, collate
from training.masks import masks_of_step
from training.optimizer import clip_gradients, drop_last_layer_gradients, make_optimizer, write_schedule
from training.randomness import seed_of
from training.recipes import resolve
from training.sampling import Batches
from training.schedules import Schedules
from training.start import Start
from training.views import MultiCrop, ViewConfig, normalised

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 20
VIT = {"backbone": "vit_tiny_patch8", "depth": 2, "layer_scale": 0.1}
RUNS: dict[str, dict[str, object]] = {
    "dino": {"recipe": "dino", **VIT, "centring": "softmax", "koleo_weight": 0, "clip_by": "parameter"},
    "dinov2": {"recipe": "dinov2", **VIT},
    "dinov2, separate heads, softmax": {"recipe": "dinov2", **VIT, "ibot_head": "separate", "centring": "softmax"},
    "resnet": {"recipe": "dinov2", "backbone": "resnet18"},
}
SIZES = {"image_size": 32, "local_size": 16, "local_views": 2, "batch_size": 8, "prototypes": 64, "head_hidden": 32}


@pytest.fixture
def in_float64() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def golden_run(digits: Path, keys: dict[str, object]) -> list[float]:
    images = list_images(digits).images[:64]
    config = TrainingConfig.from_values({"max_steps": STEPS, "freeze_last_layer": 0.25, **SIZES, **keys})
    start = Start.of(config)
    config = resolve(config, len(images), start.architecture).config
    dataset = TrainingImages(images, MultiCrop(section(config, ViewConfig), config.seed), DecodeLimits(), config.seed)
    loader = DataLoader(dataset, batch_sampler=Batches(len(images), config.batch_size, config.seed), collate_fn=collate)
    method = start.method(config).double()
    optimizer = make_optimizer(method.student, config)
    schedules = Schedules.from_config(config)
    losses = []
    for step, batch in zip(range(STEPS), loader, strict=False):
        knobs = schedules.at(step / STEPS)
        write_schedule(optimizer.param_groups, knobs.lr, knobs.weight_decay)
        torch.manual_seed(seed_of("step", config.seed, step, 0))
        masks = masks_of_step(config.seed, step, len(batch.images), 32 // 8) if config.ibot_weight else None
        assert batch.local_views is not None
        views = normalised(batch.global_views).double(), normalised(batch.local_views).double()
        outcome = method(*views, masks, knobs.teacher_temperature)
        outcome.total.backward()
        if step < 2:
            drop_last_layer_gradients(optimizer.param_groups)
        clip_gradients(method.student, config.clip_norm, config.clip_by)
        optimizer.step()
        method.update_teacher(knobs.momentum)
        optimizer.zero_grad()
        losses.append(outcome.total.item())
    return losses


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("name", RUNS)
def test_twenty_steps_give_the_losses_that_are_written_down(digits: Path, name: str) -> None:
    losses = golden_run(digits, RUNS[name])
    golden = json.loads(GOLDEN.read_text()).get(name)
    assert golden is not None, json.dumps({name: losses})
    np.testing.assert_allclose(losses, golden, rtol=1e-7, err_msg=json.dumps({name: losses}))
