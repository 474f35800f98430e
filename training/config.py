"""The keys of a run: a TOML file, then `key=value` overrides, both checked against the types of `TrainingConfig`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from backbone.durable import read_file
from training.errors import ConfigInvalid

T = TypeVar("T")
Precision = Literal["auto", "32", "bf16", "16"]
UNSET = ("auto", "none")  # how a key is handed back to the recipe, or a limit taken away, on the command line


@dataclass(frozen=True)
class TrainingConfig:
    """Every key of a run. None leaves the value to the recipe, which gives its reason (`recipes.resolve`)."""

    recipe: Literal["dino", "dinov2"] = "dino"  # it learns from thousands of images; DINOv2 wants far more
    backbone: str = "vit_small_patch16"  # the size that both papers ablate with; trains on one GPU and embeds on a CPU
    depth: int | None = None  # blocks of the ViT; None: what its name says
    init: str | None = None  # an artifact to start from; its network goes before `backbone` and `depth`
    image_size: int = 224  # pixels; what the papers train at and evaluation crops to
    pooling: Literal["cls", "mean", "cls+mean"] = "cls"  # the token that DINO trains and measures its kNN with
    labels: Literal["folders", "none"] = "folders"  # only the online kNN looks at them; the losses never do
    licence: str = "NOASSERTION"  # SPDX; of weights from scratch only the owner of the images can say

    max_steps: int | None = None  # a run ends at the first of the three limits that it reaches;
    max_epochs: int | None = None  # without any, after 100 epochs,
    max_time_s: float | None = None  # the schedules always run to their end
    batch_size: int = 64  # images a step, over all devices: the smallest that DINO reports as working well
    accumulate: int = 1  # parts that a step's batch is computed in, one after the other: less memory, the same step
    seed: int = 0  # any number; equal seeds give equal runs

    lr: float | None = None  # at a batch of 256 images; multiplied by sqrt(batch_size / 256)
    lr_end: float = 1e-6  # both papers'
    warmup: float = 0.1  # share of the run: 10 of 100 epochs in both papers
    weight_decay: float | None = None
    weight_decay_end: float | None = None
    layer_decay: float | None = None
    patch_embed_lr: float | None = None
    clip_norm: float = 3.0  # both papers'
    clip_by: Literal["whole", "module", "parameter"] | None = None  # what has at most that norm
    freeze_last_layer: float = 1.0  # epochs, at most the first tenth of a run: DINO's cure for early instability
    freeze_backbone: float | None = None  # epochs, at most the first tenth of a run, in which only the heads learn
    momentum: float | None = None  # of the teacher's average, at the start
    momentum_end: float = 1.0  # both papers': the teacher comes to rest

    prototypes: int | None = None
    head_hidden: int | None = None
    head_bottleneck: int = 256  # both papers'
    trainable_norm: bool | None = None
    ibot_head: Literal["shared", "separate"] = "shared"  # separate pays at 100 million images (arXiv:2304.07193, 4)
    student_temperature: float = 0.1  # both papers'
    teacher_temperature: float | None = None
    teacher_temperature_start: float | None = None
    teacher_temperature_warmup: float = 0.3  # share of the run: 30 of 100 epochs in both papers
    centring: Literal["softmax", "sinkhorn"] | None = None
    centre_momentum: float = 0.9  # DINO's; .9 to .999 are equally good (appendix D)
    drop_path: float | None = None
    layer_scale: float | None = None
    dino_weight: float = 1.0  # DINOv2's weights of the three losses
    ibot_weight: float | None = None
    koleo_weight: float | None = None
    koleo_over: Literal["process", "all"] = "process"  # where neighbours are looked for; the paper's
    mask_probability: float = 0.5  # share of global views that are masked; DINOv2's
    mask_ratio: tuple[float, float] = (0.1, 0.5)  # share of a view's patches that are masked; DINOv2's

    local_views: int | None = None
    local_size: int | None = None
    global_scale: tuple[float, float] | None = None
    local_scale: tuple[float, float] | None = None
    horizontal_flip: float = 0.5  # 0 where left and right differ in meaning: text, digits
    color_jitter: float = 0.8  # chance; 0 where colour is the meaning
    grayscale: float = 0.2  # chance; both papers'
    solarize: float = 0.2  # chance, of the second global view; both papers'
    blur: Literal["intended", "released", "off"] | None = None

    precision: Precision = "auto"  # auto: bf16 on a GPU that has it, else 32
    compile: bool = False  # torch.compile of the backbones: minutes of compiling, which long runs on a GPU earn back
    deterministic: bool = False  # on a GPU, only operations that give equal bits twice; a CPU always does
    devices: str = "auto"  # a number of GPUs or CPU processes; auto: all GPUs, or one CPU process
    nodes: int = 1  # machines; each runs the same command under torchrun or SLURM
    strategy: Literal["auto", "ddp"] = "auto"  # auto: ddp where there is more than one process
    workers: int | None = None  # processes that draw views; None: what the machine has to spare
    peer_timeout_s: float = 300.0  # a process that is silent for longer is lost; loading and saving take far less

    collapse: Literal["stop", "warn", "off"] = "stop"  # a collapsed run costs as much as a good one
    collapse_steps: int = 500  # healthy runs with silent blocks were seen to look uniform for some hundred
    held_out: float = 0.1  # share of the (labelled) images kept out of training for the online score
    knn_images: int = 2000  # most images in the bank of the online kNN, and a quarter as many queries: seconds a score
    log_every: int = 10  # steps a row of metrics.csv
    wandb: str | None = None  # a project of Weights & Biases that the metrics also go to
    checkpoint_every_s: float = 300.0  # at most five minutes of work are lost
    onnx: bool = True  # write model.onnx into the artifact: runtimes without torch need it
    keep_checkpoints: int = 3  # one to go on from, one if that is damaged, one to look back at

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
                values = tomllib.loads(read_file(file).decode())
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
            checked[key] = _read(key, value, hints[key])
        return checked

    def __post_init__(self) -> None:
        for key in (
            "batch_size",
            "accumulate",
            "image_size",
            "local_size",
            "depth",
            "prototypes",
            "head_hidden",
            "nodes",
        ):
            _require(self, key, 1, None)
        for key in ("local_views", "workers", "koleo_weight", "ibot_weight", "dino_weight", "lr"):
            _require(self, key, 0, None)
        for key in ("freeze_last_layer", "freeze_backbone"):
            _require(self, key, 0, None)
        for key in (
            "horizontal_flip",
            "color_jitter",
            "grayscale",
            "solarize",
            "mask_probability",
            "momentum",
            "warmup",
        ):
            _require(self, key, 0, 1)
        for key in ("log_every", "keep_checkpoints", "knn_images", "collapse_steps", "peer_timeout_s"):
            _require(self, key, 1, None)
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices) > 0):
            raise ConfigInvalid(f"devices is {self.devices!r}; give a number of GPUs or CPU processes, or auto.")
        _require(self, "held_out", 0, 0.5)
        _require(self, "drop_path", 0, 0.9)
        _require(self, "layer_scale", 0, 1)
        for key in ("global_scale", "local_scale", "mask_ratio"):
            pair = getattr(self, key)
            if pair is not None and not 0 < pair[0] <= pair[1] <= 1:
                raise ConfigInvalid(
                    f"{key} is {pair[0]},{pair[1]}; give two shares of which the first is not larger, up to 1."
                )
        for key in ("student_temperature", "teacher_temperature", "teacher_temperature_start", "clip_norm"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ConfigInvalid(f"{key} is {value}; give a number above 0.")

    def to_toml(self) -> str:
        """Write the keys that have a value, such that `load` reads them back."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                lines.append(f"{field.name} = {_toml(value)}\n")
        return "".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, keys without a value left out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}


def section(config: TrainingConfig, kind: type[T]) -> T:
    """Build the dataclass `kind` from the resolved keys of the same names; each must have a value."""
    assert dataclasses.is_dataclass(kind)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(kind)}
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise ConfigInvalid(f"{', '.join(missing)} have no value; resolve the recipe first.")
    return kind(**values)


def _require(config: TrainingConfig, key: str, least: float, most: float | None) -> None:
    value = getattr(config, key)
    if value is None or (least <= value and (most is None or value <= most)):
        return
    limit = f"from {least} to {most}" if most is not None else f"of at least {least}"
    raise ConfigInvalid(f"{key} is {value}; give a number {limit}.")


def _read(key: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    """Read a value of TOML, or the text of an override, as the annotated type."""
    origin, choices = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in UNSET):
            return None
        return _read(key, value, next(choice for choice in choices if choice is not type(None)))
    if origin is Literal:
        if str(value) in choices:
            return str(value)
        raise ConfigInvalid(f"{key} is one of {', '.join(choices)}, not {value!r}.")
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or len(parts) != len(choices):
            raise ConfigInvalid(f"{key} is {len(choices)} numbers, for instance {key}=0.4,1.0, not {value!r}.")
        return tuple(_read(key, part, choice) for part, choice in zip(parts, choices, strict=True))
    return _scalar(key, value, hint)


def _scalar(key: str, value: Any, kind: type) -> Any:  # noqa: ANN401
    words = {"true": True, "false": False}
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise ConfigInvalid(f"{key} is true or false, not {value!r}.")
    if kind is str and isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    acceptable = (int, str) if kind is int else (int, float, str)
    try:
        if isinstance(value, acceptable) and not isinstance(value, bool):
            number = kind(value)
            if abs(number) < float("inf"):  # also false for NaN
                return number
    except ValueError:
        pass
    name = {"int": "a whole number", "float": "a number"}.get(kind.__name__, kind.__name__)
    raise ConfigInvalid(f"{key} is {name}, not {value!r}.")


def _toml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else repr(value)
