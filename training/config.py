"""The configuration of a run: its keys, from a TOML file, then `key=value` overrides, checked against the types of `TrainingConfig`."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from backbone.durable import read_file
from backbone.value_range import ALL_OF_16_BITS, ValueRange
from training.config_text import AS_NAMED, read_value, write_value
from training.errors import ConfigInvalid

T = TypeVar("T")
Precision = Literal["auto", "32", "bf16", "16"]


def _rising(shares: tuple[float, float]) -> tuple[float, float]:
    if not 0 < shares[0] <= shares[1] <= 1:
        raise ValueError
    return shares


def _auto_or_positive(devices: str) -> str:
    if devices != "auto" and not (devices.isdecimal() and int(devices) > 0):
        raise ValueError
    return devices


def _range_of_values(text: str) -> str:
    return str(ValueRange.of(text))


# Types with bounds; the description completes "give ..." in the message about a value beyond them.
PositiveInt = Annotated[int, Field(ge=1, description="a number of at least 1")]
NonNegativeInt = Annotated[int, Field(ge=0, description="a number of at least 0")]
Positive = Annotated[float, Field(gt=0, description="a number above 0")]
NonNegative = Annotated[float, Field(ge=0, description="a number of at least 0")]
AtLeastOne = Annotated[float, Field(ge=1, description="a number of at least 1")]
Share = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
HeldOutShare = Annotated[float, Field(ge=0, le=0.5, description="a number from 0 to 0.5")]
DropPathRate = Annotated[float, Field(ge=0, le=0.9, description="a number from 0 to 0.9")]
ShareRange = Annotated[
    tuple[float, float],
    AfterValidator(_rising),
    Field(description="two shares of which the first is not larger, up to 1"),
]
Devices = Annotated[
    str, AfterValidator(_auto_or_positive), Field(description="a number of GPUs or CPU processes, or auto")
]


RangeText = Annotated[str, AfterValidator(_range_of_values), Field(description="black and white, for instance 0:4095")]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Every key of a run. None leaves the value to the recipe, which gives its reason (`recipes.resolve`)."""

    recipe: Literal["dino", "dinov2"] = "dino"  # it learns from thousands of images; DINOv2 wants far more
    backbone: str = "vit_small_patch16"  # the size that both papers ablate with; trains on one GPU and embeds on a CPU
    depth: PositiveInt | None = None  # blocks of the ViT; None: what its name says
    init: str | None = None  # an artifact to start from; its network goes before `backbone` and `depth`
    image_size: PositiveInt = 224  # pixels; what the papers train at and evaluation crops to
    pooling: Literal["cls", "mean", "cls+mean"] = "cls"  # the token that DINO trains and measures its kNN with
    labels: Literal["folders", "none"] = "folders"  # only the online kNN looks at them; the losses never do
    exclude: tuple[str, ...] = ()  # patterns of paths, as .gitignore has them; all images count
    value_range: RangeText = ALL_OF_16_BITS  # black and white of deep grey; no file says if it uses less
    licence: str = "NOASSERTION"  # SPDX; of weights from scratch only the owner of the images can say

    max_steps: int | None = None  # a run ends at the first of the three limits that it reaches;
    max_epochs: int | None = None  # without any, after 100 epochs,
    max_time_s: float | None = None  # the schedules always run to their end
    batch_size: PositiveInt = 64  # images a step, over all devices: the smallest that DINO reports as working well
    accumulate: PositiveInt = 1  # parts of a step's batch, computed one after the other: less memory, the same step
    seed: int = 0  # any number; equal seeds give equal runs

    lr: NonNegative | None = None  # at a batch of 256 images; multiplied by sqrt(batch_size / 256)
    lr_end: float = 1e-6  # both papers'
    warmup: Share = 0.1  # share of the run: 10 of 100 epochs in both papers
    weight_decay: float | None = None
    weight_decay_end: float | None = None
    layer_decay: float | None = None
    patch_embed_lr: float | None = None
    clip_norm: Positive = 3.0  # both papers'
    clip_by: Literal["whole", "module", "parameter"] | None = None  # what has at most that norm
    freeze_last_layer: NonNegative = 1.0  # epochs, at most the first tenth of a run: DINO's cure for early instability
    freeze_backbone: NonNegative | None = None  # epochs, at most the first tenth of a run, of the heads alone
    momentum: Share | None = None  # of the teacher's average, at the start
    momentum_end: float = 1.0  # both papers': the teacher comes to rest

    prototypes: PositiveInt | None = None
    head_hidden: PositiveInt | None = None
    head_bottleneck: int = 256  # both papers'
    trainable_norm: bool | None = None
    ibot_head: Literal["shared", "separate"] = "shared"  # separate pays at 100 million images (arXiv:2304.07193, 4)
    student_temperature: Positive = 0.1  # both papers'
    teacher_temperature: Positive | None = None
    teacher_temperature_start: Positive | None = None
    teacher_temperature_warmup: float = 0.3  # share of the run: 30 of 100 epochs in both papers
    centring: Literal["softmax", "sinkhorn"] | None = None
    centre_momentum: float = 0.9  # DINO's; .9 to .999 are equally good (appendix D)
    drop_path: DropPathRate | None = None
    layer_scale: Share | None = None
    dino_weight: NonNegative = 1.0  # DINOv2's weights of the three losses
    ibot_weight: NonNegative | None = None
    koleo_weight: NonNegative | None = None
    koleo_over: Literal["process", "all"] = "process"  # where neighbours are looked for; the paper's
    mask_probability: Share = 0.5  # share of global views that are masked; DINOv2's
    mask_ratio: ShareRange = (0.1, 0.5)  # share of a view's patches that are masked; DINOv2's

    local_views: NonNegativeInt | None = None
    local_size: PositiveInt | None = None
    global_scale: ShareRange | None = None
    local_scale: ShareRange | None = None
    horizontal_flip: Share = 0.5  # 0 where left and right differ in meaning: text, digits
    color_jitter: Share = 0.8  # chance; 0 where colour is the meaning
    grayscale: Share = 0.2  # chance; both papers'
    solarize: Share = 0.2  # chance, of the second global view; both papers'
    blur: Literal["intended", "released", "off"] | None = None

    precision: Precision = "auto"  # auto: bf16 on a GPU that has it, else 32
    compile: bool = False  # torch.compile of the backbones: minutes of compiling, which long runs on a GPU earn back
    deterministic: bool = False  # on a GPU, only operations that give equal bits twice; a CPU always does
    devices: Devices = "auto"  # a number of GPUs or CPU processes; auto: all GPUs, or one CPU process
    nodes: PositiveInt = 1  # machines; each runs the same command under torchrun or SLURM
    strategy: Literal["auto", "ddp"] = "auto"  # auto: ddp where there is more than one process
    workers: NonNegativeInt | None = None  # processes that draw views; None: what the machine has to spare
    peer_timeout_s: AtLeastOne = 300.0  # a process that is silent for longer is lost; loading and saving take far less

    collapse: Literal["stop", "warn", "off"] = "stop"  # a collapsed run costs as much as a good one
    collapse_steps: PositiveInt = 500  # healthy runs with silent blocks were seen to look uniform for some hundred
    held_out: HeldOutShare = 0.1  # share of the (labelled) images kept out of training for the online score
    knn_images: PositiveInt = 2000  # most images in the bank of the online kNN, a quarter as many queries: seconds
    log_every: PositiveInt = 10  # steps a row of metrics.csv
    wandb: str | None = None  # a project of Weights & Biases that the metrics also go to
    checkpoint_every_s: float = 300.0  # at most five minutes of work are lost
    onnx: bool = True  # write model.onnx into the artifact: runtimes without torch need it
    keep_checkpoints: PositiveInt = 3  # one to go on from, one if that is damaged, one to look back at

    @classmethod
    def load(cls, file: Path | None = None, overrides: Iterable[str] = ()) -> Self:
        """Read a TOML file and then `key=value` overrides; see `given_values` for what is raised."""
        return cls(**cls.given_values(file, overrides))

    @classmethod
    def given_values(cls, file: Path | None = None, overrides: Iterable[str] = ()) -> dict[str, Any]:
        """Read a TOML file and then `key=value` overrides into the values that they give, by key.

        Raises:
            ConfigInvalid: unknown keys (the nearest one is named) and values of another type.
            PathMissing: no such file.
        """
        values: dict[str, Any] = {}
        if file is not None:
            try:
                # the mark that editors of Windows put in front is no key
                values = tomllib.loads(read_file(file).decode("utf-8-sig", errors=AS_NAMED))
            except tomllib.TOMLDecodeError as error:
                raise ConfigInvalid(f"{file} is not TOML: {error}.") from error
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise ConfigInvalid(f"{override!r} is not an override; write key=value, for instance batch_size=32.")
            values[key.strip()] = text.strip()
        return cls._checked(values)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Check keys and types; a string stands for any type that it can be read as."""
        return cls(**cls._checked(values))

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        hints = typing.get_type_hints(cls)
        checked: dict[str, Any] = {}
        for key, value in values.items():
            if key not in hints:
                near = difflib.get_close_matches(key, hints, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(sorted(hints))}."
                raise ConfigInvalid(f"there is no key {key!r}{hint}")
            checked[key] = read_value(key, value, hints[key])
        return checked

    def __post_init__(self) -> None:
        for key, (bound, wanted) in _bounds().items():
            value = getattr(self, key)
            try:
                bound.validate_python(value, strict=True)
            except ValidationError:
                raise ConfigInvalid(f"{key} is {_shown(value)}; give {wanted}.") from None

    def to_toml(self) -> str:
        """Write the keys that have a value, such that `load` reads them back; `encode` it with AS_NAMED."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                lines.append(f"{field.name} = {write_value(value)}\n")
        return "".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, keys without a value left out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(TrainingConfig):
    """The keys of a run when the recipe has decided all that are its own: none of those is None."""

    lr: float
    weight_decay: float
    weight_decay_end: float
    layer_decay: float
    patch_embed_lr: float
    clip_by: Literal["whole", "module", "parameter"]
    freeze_backbone: float
    momentum: float
    prototypes: int
    head_hidden: int
    trainable_norm: bool
    teacher_temperature: float
    teacher_temperature_start: float
    centring: Literal["softmax", "sinkhorn"]
    drop_path: float
    layer_scale: float
    ibot_weight: float
    koleo_weight: float
    local_views: int
    local_size: int
    global_scale: tuple[float, float]
    local_scale: tuple[float, float]
    blur: Literal["intended", "released", "off"]
    workers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_open({key: getattr(self, key) for key in ResolvedConfig.__annotations__})


def section(config: TrainingConfig, kind: type[T]) -> T:
    """Build the dataclass `kind` from the resolved keys of the same names; each must have a value."""
    assert dataclasses.is_dataclass(kind)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}
    _refuse_open(values)
    return kind(**values)


def _refuse_open(values: Mapping[str, Any]) -> None:
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise ConfigInvalid(f"{', '.join(missing)} have no value; resolve the recipe first.")


@functools.cache
def _bounds() -> dict[str, tuple[TypeAdapter[Any], str]]:
    """The keys with bounds: what checks a value (None where a key may be None), and the words for one that fits."""
    bounds = {}
    for key, hint in typing.get_type_hints(TrainingConfig, include_extras=True).items():
        for choice in (hint, *typing.get_args(hint)):
            if typing.get_origin(choice) is Annotated:
                bounds[key] = TypeAdapter(hint), choice.__metadata__[-1].description
    return bounds


def _shown(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return repr(value) if isinstance(value, str) else str(value)
