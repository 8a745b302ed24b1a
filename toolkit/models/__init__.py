"""The networks that aurep trains: its own CIFAR forms, timm's by name, the user's own by factory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from aurep.errors import AurepError
from aurep.models.external import build_from_factory, build_timm
from aurep.models.resnet import ResNet
from aurep.models.vgg import VGG16
from aurep.models.wide_resnet import WideResNet

__all__ = ["MODELS", "Architecture", "build_model"]


@dataclass(frozen=True)
class Architecture:
    """How to build one of aurep's own networks.

    Args:
        build: called with num_classes, in_channels, width and, where it has that option, stem_relu.
        width: default channels of the first stage.
        smallest_input: pixels; below it a stage would have nothing left to halve.
        has_stem_relu: whether `stem_relu` means something for it.
    """

    build: Callable[..., nn.Module]
    width: int
    smallest_input: int
    has_stem_relu: bool = True


MODELS: dict[str, Architecture] = {
    "resnet9": Architecture(partial(ResNet, (1, 1, 1, 1)), width=64, smallest_input=8),
    "resnet18": Architecture(partial(ResNet, (2, 2, 2, 2)), width=64, smallest_input=8),
    "resnet34": Architecture(partial(ResNet, (3, 4, 6, 3)), width=64, smallest_input=8),
    "resnet20": Architecture(partial(ResNet, (3, 3, 3), stem_relu=True), width=16, smallest_input=4),
    "resnet32": Architecture(partial(ResNet, (5, 5, 5), stem_relu=True), width=16, smallest_input=4),
    "resnet56": Architecture(partial(ResNet, (9, 9, 9), stem_relu=True), width=16, smallest_input=4),
    "wide_resnet22_8": Architecture(partial(WideResNet, 22), width=128, smallest_input=4),
    "vgg16": Architecture(VGG16, width=64, smallest_input=32, has_stem_relu=False),
}


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    width: int | None = None,
    input_size: int | tuple[int, int] = 32,
    stem_relu: bool | None = None,
) -> nn.Module:
    """A network with fresh weights (torch's default initialisation), taking images (N, in_channels, H, W).

    Args:
        name: one of `MODELS`, ``timm:NAME`` or ``package.module:factory``. A factory gets those of this function's
            arguments that it names.
        num_classes: logits, at least 1.
        in_channels: image channels, at least 1.
        width: channels of the first stage; default 64, 16 for resnet20, 32 and 56, and 128 for wide_resnet22_8.
        input_size: pixels per side, or (height, width). Aurep's own networks pool globally, so this only checks that it
            is large enough.
        stem_relu: for ResNets, put a ReLU in the stem; for wide_resnet22_8, behind the last batch norm. Default: as the
            published totals count, which is yes for resnet20, 32 and 56 and no for the others.

    Raises:
        AurepError: unknown name, a size that is not positive or too small, an option that the network does not have.
    """
    smallest = min(input_size) if isinstance(input_size, tuple) else input_size
    for option, value in {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "width": width,
        "input_size": smallest,
    }.items():
        if value is not None and value < 1:
            raise AurepError(f"{option} is {value}, expected a positive number; set it to at least 1.")
    set_options: dict[str, Any] = {"width": width, "stem_relu": stem_relu}
    given = {option: value for option, value in set_options.items() if value is not None}
    required = {"num_classes": num_classes, "in_channels": in_channels}
    if name.startswith("timm:"):
        for option in given:
            raise AurepError(f"the model {name!r} has no option {option}; leave it out.")
        return build_timm(name.removeprefix("timm:"), **required)
    if ":" in name:
        return build_from_factory(name, given=given, offered={**required, "input_size": input_size})
    if name not in MODELS:
        raise AurepError(
            f"unknown model {name!r}; expected one of {', '.join(MODELS)}, timm:NAME, or package.module:factory."
        )
    return _build_own(name, MODELS[name], required, given, smallest)


def _build_own(
    name: str, own: Architecture, required: dict[str, int], given: dict[str, Any], input_size: int
) -> nn.Module:
    if input_size < own.smallest_input:
        raise AurepError(
            f"{name} needs images of at least {own.smallest_input}x{own.smallest_input} pixels, got input_size "
            f"{input_size}; raise it, or choose another model."
        )
    if "stem_relu" in given and not own.has_stem_relu:
        raise AurepError(f"{name} has no stem_relu option: every convolution is followed by a ReLU; leave it out.")
    return own.build(**{**required, "width": own.width, **given})
