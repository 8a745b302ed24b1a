"""A run's configuration: TOML recipes, `section.key=value` overrides, every key checked before any work starts."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from aurep.data.augment import Augment
from aurep.data.load import Stream
from aurep.data.resize import Interpolation
from aurep.errors import AurepError
from aurep.kernels import Choice
from aurep.polynomial import Fit

Epochs = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Side = Annotated[int, Field(ge=4, le=4096)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; a recipe that says `width = true` is mistaken."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted not in (bool, bool | None, bool | Literal["auto"]):
            raise ValueError("true and false are no value for it")
        return value


class ModelConfig(_Section):
    """[model]"""

    name: str = "resnet9"  # a shipped network, timm:NAME, or package.module:factory
    width: int | None = Field(default=None, ge=1, le=1024)  # channels of the first stage; None: the published one
    input_size: Side | tuple[Side, Side] | None = None  # pixels, or [height, width]; None: the data's
    stem_relu: bool | None = None  # of ResNets, one behind the stem; None: as published
    maxpool: Literal["max", "avg"] = "max"  # "avg" swaps max-pooling, which compares as well
    pretrained: bool = False  # of timm:NAME: the teacher has the weights that timm loads
    replace: Literal["auto"] | tuple[str, ...] = "auto"  # which activations become sites: those that the network has


class DataConfig(_Section):
    """[data]"""

    name: str = "mnist5k"  # a known data set, folder:PATH, npz:PATH or hf:NAME
    dir: str | None = None  # where it lies, or is downloaded to
    val_fraction: Fraction = 0.1  # of the training images, the last: every choice is made on them
    pad: int = Field(default=4, ge=0)  # pixels on every side, out of which the image's size is cropped at random
    flip: bool = True  # left and right, by chance
    alternating: bool = False  # flip every image in every second epoch, instead of by chance
    cutout: int = Field(default=0, ge=0)  # side, in pixels, of a square that is blanked
    resized_crop: tuple[float, float] | None = None  # shares of the area that a random crop takes, in place of pad
    randaugment: tuple[int, int] | None = None  # operations per image and their strength up to 30, such as [2, 9]
    mixup: Weight = 0.0  # alpha of the Beta distribution that two images are averaged by
    cutmix: Weight = 0.0  # the same for a rectangle of one in the other; these four need aurep[imagenet]
    mean: tuple[float, ...] | None = None  # per channel, of pixels in 0..1; None: the training images' own
    std: tuple[float, ...] | None = None  # likewise
    interpolation: Interpolation = "bilinear"  # where model.input_size resizes
    crop_pct: float | None = Field(default=None, gt=0, le=1)  # None: stretch; else cover input_size / crop_pct, cut out
    stream: Stream = "auto"  # leave image files on the disk and decode batch by batch: above memory_share, yes or no
    memory_share: float = Field(default=0.25, gt=0, le=1)  # of the available memory
    workers: int | None = Field(default=None, ge=0)  # processes that decode; None: one a core
    cache: str | None = None  # a folder: image files are decoded into it once, and read from there

    @property
    def augment(self) -> Augment:
        """What training does to images. Raises AurepError for values that do not fit together."""
        return Augment(
            resized_crop=self.resized_crop,
            randaugment=self.randaugment,
            pad=self.pad,
            flip=self.flip,
            alternating=self.alternating,
            cutout=self.cutout,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )

    @property
    def incidental(self) -> set[str]:
        """Keys that do not decide the result. Random crops of whole images need those, not the resized ones."""
        return {"dir", "workers", "memory_share"} | ({"stream", "cache"} if self.resized_crop is None else set())


class TrainConfig(_Section):
    """[train]"""

    seed: int = Field(default=0, ge=0)  # of everything random
    batch_size: int = Field(default=128, ge=1)  # images of a step, over all ranks
    device: Literal["auto", "cpu", "cuda"] = "auto"  # "auto": CUDA where there is one
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # mixed; auto: bf16 where hardware has it, else fp32
    log: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv",)  # metrics.csv and experiment trackers
    checkpoint_minutes: Weight = 10.0  # also at every epoch's end, and on SIGTERM
    kernels: Choice = "auto"  # of the hybrid activation: "compiled" builds C++ ones for the CPU; the default in bf16
    fuse: bool | Literal["auto"] = "auto"  # batch norm, residual sum and activation in one; auto: with those kernels
    accumulate: int = Field(default=1, ge=1)  # parts that a batch is computed in, one after the other, to fit in memory
    checkpoint_activations: bool = False  # compute activations twice instead of keeping them
    compile: Literal["no", "default", "reduce-overhead"] = "no"  # torch.compile; the last with CUDA graphs

    @model_validator(mode="after")
    def _one_rewriting(self) -> Self:
        if self.checkpoint_activations and self.compile != "no":
            raise ValueError("train.checkpoint_activations and train.compile exclude each other")
        return self


class PhaseConfig(_Section):
    """What baseline, search and finetune share."""

    epochs: Epochs = 10  # over the training images
    optimizer: Literal["sgd", "adamw"] = "adamw"  # "sgd" with Nesterov momentum
    lr: Rate = 1e-3  # peak; rises over `warmup`, then falls to lr * `final_lr` on a cosine
    final_lr: Weight = 0.01  # as a multiple of lr
    warmup: Fraction = 0.2  # share of the steps
    momentum: Fraction = 0.9  # of SGD
    weight_decay: Weight = 0.0  # biases, norms, polynomials and indicators have none
    label_smoothing: Fraction = 0.0  # of the cross-entropy
    bias_lr: Rate = 1.0  # rate of the batch norms' biases, as a multiple of lr
    ema: Fraction = 0.0  # decay per step of a running average of the weights, which is what counts; 0: none
    clip_norm: Weight = 0.0  # of the gradient of weights and polynomials; 0: no clipping


class BaselineConfig(PhaseConfig):
    """[baseline]: the all-ReLU network, which is then the teacher."""

    epochs: Epochs = 20
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Rate = 0.1
    weight_decay: Weight = 5e-4
    checkpoint: str | None = None  # own weights in place of training: a file, a run, hf:REPO or timm:NAME


class StudentConfig(PhaseConfig):
    """What search and finetune share: a student with polynomials and a teacher."""

    lr: Rate = 1e-3  # in short runs three times as much ends a point lower: benchmarks/results/finetuning.md
    coefficient_lr: Rate = 1e-3  # of polynomials, whose gradients sum over batch and plane
    ce_weight: Weight = 1.0  # of cross-entropy with the labels
    kd_weight: Weight = 1.0  # of distillation: KL to the teacher's softened logits
    temperature: Rate = 4.0  # that softens them
    pram_weight: Weight = 0.0  # of the teacher's attention maps; SENet finetunes with 1000
    range_weight: Weight = 0.01  # of a penalty on inputs further than `range_limit` deviations from their mean
    range_limit: Rate = 6.0  # in standard deviations of the channel
    normalise: bool = True  # train polynomials over batch-normalised powers (AESPA): deep networks collapse without
    clip_norm: Weight = 1.0  # a batch with an outlier shall not decide a step alone


class SearchConfig(StudentConfig):
    """[search]; a method's own options are the table [search.options], read by the method."""

    method: str = "autorep"  # which elements stay ReLU
    budget: int | str = "10%"  # elements that may: 12900, "12.9k", or a share
    max_sites: int | None = Field(default=None, ge=0)  # at which ReLUs may stay, as they are chosen; None: all
    sites: tuple[str, ...] | None = None  # their names in place of a choice, as `aurep inspect` lists them
    degree: Literal[0, 1, 2] | None = None  # None: the method's own, 0 for snl and senet, 2 for the others
    coefficients: Literal["channel", "element"] = "channel"  # one polynomial for each
    width_multipliers: tuple[Share, ...] = (1.0,)  # networks of the first channels, trained along (SENet++)
    calibration: int = Field(default=2048, ge=1)  # images that the polynomials are fitted on
    fit: Fit = "damped"  # how they are fitted: see `aurep.polynomial.Moments.fit`
    options: dict[str, Any] = {}  # the method's own, below

    @model_validator(mode="after")
    def _sites_named_or_chosen(self) -> Self:
        if self.sites is not None and self.max_sites is not None:
            raise ValueError("search.sites names the sites that search.max_sites would choose; give one of them")
        return self

    @field_validator("width_multipliers")
    @classmethod
    def _full_width_and_others(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in shares or len(set(shares)) < len(shares):
            raise ValueError("it must list 1.0, the full network, and every other once")
        return shares


class FinetuneConfig(StudentConfig):
    """[finetune]: masks frozen."""

    epochs: Epochs = 20


class Config(_Section):
    """All sections of a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    baseline: BaselineConfig = BaselineConfig()
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def digest(self) -> str:
        """sha256 of what decides the result: everything but where the data lies, how it is read, and what is logged."""
        incidental = {"data": self.data.incidental, "train": {"log"}}
        fields = self.model_dump(mode="json", exclude_none=True, exclude=incidental)
        return hashlib.sha256(tomli_w.dumps(fields).encode()).hexdigest()


def recipe_names() -> list[str]:
    return sorted(f.name.removesuffix(".toml") for f in resources.files("aurep.recipes").iterdir() if f.name[0] != "_")


def read_recipe(name: str) -> str:
    """The text of a shipped recipe, or of a TOML file at the path `name`."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise AurepError(f"recipe {name} cannot be read ({error}); give a TOML file or a shipped name.") from None
    if name not in recipe_names():
        raise AurepError(f"no recipe {name!r}; shipped are {', '.join(recipe_names())}, or give a path to a TOML file.")
    return (resources.files("aurep.recipes") / f"{name}.toml").read_text()


def read_toml(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AurepError(f"{origin} is not TOML: {error}.") from None


def parse_config(text: str, origin: str = "configuration", overrides: Iterable[str] = ()) -> Config:
    """Read TOML, apply `section.key=value` overrides, check every key and value.

    Raises:
        AurepError: names `origin` and the key that is unknown, missing or out of range.
    """
    fields = read_toml(text, origin)
    for override in overrides:
        _apply(fields, override)
    return check_config(fields, origin)


def check_config(fields: Mapping[str, Any], origin: str = "configuration") -> Config:
    try:
        return Config.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])  # behind them comes which type of a union was tried
        if first["type"] == "extra_forbidden":
            raise AurepError(f"{origin}: unknown key {key!r}; {_known_keys(first['loc'])}.") from None
        raise AurepError(f"{origin}: {key} = {first['input']!r} is not valid: {first['msg'].lower()}.") from None


def _known_keys(location: tuple[int | str, ...]) -> str:
    section = Config.model_fields.get(str(location[0])) if len(location) > 1 else None
    model = section.annotation if section else Config
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return f"known are {', '.join(model.model_fields)}"


def _apply(fields: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or len(path) < 2 or not all(path):
        raise AurepError(f"--set {override!r} is not of the form section.key=value, such as search.epochs=5.")
    table = fields
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise AurepError(f"--set {override!r}: {part} is a value, not a section.")
    table[path[-1]] = toml_value(text.strip())


def toml_value(text: str) -> Any:
    """A TOML value where it is one, else the text itself, so that strings need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
