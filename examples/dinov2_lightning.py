"""DINOv2 with Lightning: `TrainingModule` takes the steps, a callback prints them.

python examples/dinov2_lightning.py DATA [--steps N] [--backbone NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from backbone.decode import DecodeLimits
from backbone.listing import list_images
from training.config import TrainingConfig, section
from training.images import TrainingImages
from training.loading import Loading
from training.module import TrainingModule
from training.recipes import resolve
from training.schedules import Length
from training.start import Start
from training.views import MultiCrop, ViewConfig


class PrintAndStop(Callback):
    """Print each step's loss, and stop after the last step."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Look at what the step left."""
        print(f"step {pl_module.step - 1} loss {pl_module.last.losses.total.item():.6f}")
        trainer.should_stop = pl_module.progress >= 1.0


def main() -> None:
    """Train for some steps and print each loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--backbone", default="vit_tiny_patch16")
    arguments = parser.parse_args()

    keys = TrainingConfig(recipe="dinov2", backbone=arguments.backbone, max_steps=arguments.steps, batch_size=16)
    keys = TrainingConfig.from_values({**keys.to_dict(), "image_size": 64, "drop_path": 0, "koleo_over": "all"})
    images = list_images(arguments.data).images
    start = Start.of(keys)
    config = resolve(keys, len(images), start.architecture).config

    views = MultiCrop(section(config, ViewConfig), config.seed)
    dataset = TrainingImages(images, views, DecodeLimits(), config.seed)
    module = TrainingModule(start.method(config), config, Length(arguments.steps), len(images) // config.batch_size)
    trainer = Trainer(
        max_epochs=-1,  # the module knows how long the run is
        callbacks=[PrintAndStop()],
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, Loading(dataset, config))


if __name__ == "__main__":
    main()
