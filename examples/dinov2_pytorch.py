"""DINOv2 in plain PyTorch, the loop written out.

python examples/dinov2_pytorch.py DATA [--steps N] [--backbone NAME]

The other two examples take the same steps with Lightning, in one process and in several; from one seed all three print the same losses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch.utils.data import DataLoader

from backbone.decode import DecodeLimits
from backbone.listing import list_images
from training.config import TrainingConfig, section
from training.images import TrainingImages, collate
from training.masks import masks_of_step
from training.optimizer import clip_gradients, drop_last_layer_gradients, make_optimizer, write_schedule
from training.recipes import resolve
from training.sampling import Batches
from training.schedules import Schedules
from training.start import Start
from training.views import MultiCrop, ViewConfig, normalised


def main() -> None:
    """Train for some steps and print each loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--backbone", default="vit_tiny_patch16")
    arguments = parser.parse_args()

    # No drop path, and KoLeo over the images of all processes: then the number of processes changes nothing.
    keys = TrainingConfig(recipe="dinov2", backbone=arguments.backbone, max_steps=arguments.steps, batch_size=16)
    keys = TrainingConfig.from_values({**keys.to_dict(), "image_size": 64, "drop_path": 0, "koleo_over": "all"})
    images = list_images(arguments.data).images
    start = Start.of(keys)
    config = resolve(keys, len(images), start.architecture).config

    views = MultiCrop(section(config, ViewConfig), config.seed)
    dataset = TrainingImages(images, views, DecodeLimits(), config.seed)
    loader = DataLoader(dataset, batch_sampler=Batches(len(images), config.batch_size, config.seed), collate_fn=collate)
    steps_per_epoch = len(images) // config.batch_size

    method = start.method(config)
    optimizer = make_optimizer(method.student, config)
    schedules = Schedules.from_config(config)

    for step, batch in zip(range(arguments.steps), loader, strict=False):
        knobs = schedules.at(step / arguments.steps)
        write_schedule(optimizer.param_groups, knobs.lr, knobs.weight_decay)

        masks = None
        if config.ibot_weight:
            masks = masks_of_step(
                config.seed, step, len(batch.images), config.image_size // method.student.backbone.stride
            )
        local_views = None if batch.local_views is None else normalised(batch.local_views)
        losses = method(normalised(batch.global_views), local_views, masks, knobs.teacher_temperature)
        losses.total.backward()

        if step < min(config.freeze_last_layer * steps_per_epoch, 0.1 * arguments.steps):
            drop_last_layer_gradients(optimizer.param_groups)
        clip_gradients(method.student, config.clip_norm, config.clip_by)
        optimizer.step()
        method.update_teacher(knobs.momentum)
        optimizer.zero_grad()
        print(f"step {step} loss {losses.total.item():.6f}")


if __name__ == "__main__":
    main()
