"""Preprocessing, from bytes to the network's input: one implementation for training's log, evaluation, export, the job and the service.

Resize of the short side, centre crop, scaling to [0, 1], normalisation: the steps and the rounding of torchvision's `Resize` and
`CenterCrop` on Pillow images, written with Pillow and numpy so that a service without torch gives the same pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbone.decode import DECODE_RULES, DecodeLimits, decode, resized_size
from backbone.errors import ArtifactInvalid
from backbone.value_range import ValueRange

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL_IMAGE = 64  # up to this size (digits, icons) the object fills the frame, and a centre crop would cut it

_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """The steps as data; equal data gives equal pixels, and the data is part of an artifact's fingerprint."""

    resize: int  # pixels of the short side
    crop: int  # pixels of the square that is cut from the centre
    interpolation: str = "bicubic"  # what DINO's and DINOv2's evaluations use
    antialias: bool = True  # Pillow always filters when it shrinks; said here so that another decoder must, too
    mean: tuple[float, float, float] = (
        IMAGENET_MEAN  # of RGB in [0, 1]; any fixed affine map would do, this one is the field's
    )
    std: tuple[float, float, float] = IMAGENET_STD
    value_range: ValueRange | None = None  # of grey of 16 and 32 bits; None takes all of 16, and no 32

    @classmethod
    def for_image_size(cls, image_size: int, value_range: ValueRange | None = None) -> Self:
        """Return the field's evaluation crop for a network trained at `image_size`: 256/224 of it, then the centre."""
        resize = image_size if image_size <= SMALL_IMAGE else round(image_size * 256 / 224)
        return cls(resize=resize, crop=image_size, value_range=value_range)

    def __call__(self, data: bytes, limits: DecodeLimits | None = None) -> NDArray[np.float32]:
        """Decode and prepare one image.

        Returns:
            [3, crop, crop] float32.

        Raises:
            ImageRefused: the bytes are not an image that can be embedded.
        """
        return self.pixels(decode(data, limits, self.resize, self.value_range))

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """Prepare one RGB image of any size: [3, crop, crop] float32."""
        return self.normalised(self.square(image))

    def square(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize one RGB image of any size and cut the centre out: [crop, crop, 3] uint8."""
        resized = image
        if min(image.size) != self.resize:
            resized = image.resize(resized_size(image.size, self.resize), _INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.crop) / 2.0) for side in resized.size)
        return np.asarray(resized.crop((left, top, left + self.crop, top + self.crop)))

    def normalised(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale and normalise [crop, crop, 3] uint8 to [3, crop, crop] float32."""
        values = square.astype(np.float32) / np.float32(255)
        values -= np.asarray(self.mean, dtype=np.float32)
        values /= np.asarray(self.std, dtype=np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return the steps, the rules of decoding included, as plain JSON types."""
        fields = asdict(self)
        given = fields.pop("value_range")  # a rule of decoding, of which nothing is said where it is not given
        rules = {**DECODE_RULES, **({} if given is None else {"value_range": given})}
        return {**fields, "mean": list(self.mean), "std": list(self.std), "decode": rules}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ArtifactInvalid: a key is missing, unknown or of another type, or the decode rules are not the ones built in here.
        """
        fields = dict(data)
        rules = fields.pop("decode", None)
        given = rules.get("value_range") if isinstance(rules, dict) else None
        if rules != {**DECODE_RULES, **({} if given is None else {"value_range": given})}:
            raise ArtifactInvalid(
                "the artifact was made with other decode rules; use the dinodex version that wrote it."
            )
        try:
            value_range = None if given is None else ValueRange(**given)
            made = cls(
                **{**fields, "value_range": value_range, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])}
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ArtifactInvalid("the artifact's preprocess is incomplete; export it again.") from error
        if made.interpolation not in _INTERPOLATIONS or not made.antialias or not 1 <= made.crop <= made.resize:
            raise ArtifactInvalid("the artifact's preprocess has values that are not built in; export it again.")
        return made
