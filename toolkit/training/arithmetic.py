"""What `auto` comes to on this machine: precision, kernels, fusing.

bf16 where the device has it in hardware, fp32 elsewhere: emulated, it is slower than fp32. On a CPU bf16 comes with the
C++ kernels, fused, where they can be built (benchmarks/results/step_time_cpu_bf16.md); fp32 stays with the eager ones,
whose bits depend on no compiler. A run's config.toml records what was taken, so that it goes on with the same maths
wherever it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aurep.errors import AurepError
from aurep.kernels import cpu_build, triton_found
from aurep.training.config import Config

_UNITS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")  # as torch.cpu.get_capabilities calls them; the last is ARM's
_SETTLED = ("precision", "kernels", "fuse")


def accelerator(config: Config) -> str:
    """ "cpu" or "cuda"."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise AurepError("train.device = 'cuda' but torch finds no CUDA device; use device = 'cpu' or 'auto'.")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def bf16_unit(device: str) -> str | None:
    """What computes bf16 in hardware, in words; None where nothing does."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        return f"{name} has it" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    found = torch.cpu.get_capabilities()
    unit = next((unit for unit in _UNITS if found.get(unit)), None)
    return None if unit is None else f"this processor has {unit}"


def settle(config: Config, say: Callable[[str], None] = lambda text: None) -> Config:
    """`config` without an "auto" of precision or fusing, nor of kernels where that is not the device's default.

    Builds the C++ kernels where they are wanted. `say` is told what was taken and why.
    """
    device, train = accelerator(config), config.train
    unit = bf16_unit(device)
    precision = train.precision if train.precision != "auto" else "fp32" if unit is None else "bf16"
    if precision == "fp16" and device == "cpu":
        raise AurepError("train.precision = 'fp16' is for GPUs; use 'bf16', 'fp32' or 'auto' on a CPU.")
    why = _why(train.precision, precision, unit, device)
    kernels, fuse = train.kernels, train.fuse
    wanted = device == "cpu" and train.compile == "no"
    if wanted and (kernels == "compiled" or (kernels == "auto" and precision == "bf16")):
        if cpu_build.must_build():
            say("building the CPU kernels (once)")
        kernels = "compiled" if cpu_build.available() else kernels
    if fuse == "auto":
        fuse = kernels == "compiled" and precision == "bf16"
    settled = _with(config, precision=precision, kernels=kernels, fuse=fuse)
    say(f"precision: {precision}{why}; kernels: {kernels_of(settled)}")
    return settled


def kernels_of(config: Config) -> str:
    """What computes the activations of a settled `config` here, in words."""
    train = config.train
    if train.compile != "no":
        return "torch.compile"
    if train.kernels == "eager":
        name = "eager"
    elif accelerator(config) == "cuda":
        name = "Triton" if triton_found() else "eager"
    else:
        name = cpu_build.describe() if train.kernels == "compiled" else "eager"
    return f"{name}, fused" if train.fuse is True else name


def settled_like(config: Config, first: Config) -> Config:
    """`config` with what `first` has taken in place of its own "auto"s."""
    return _with(config, **{key: getattr(first.train, key) for key in _SETTLED if getattr(config.train, key) == "auto"})


def _with(config: Config, **train: Any) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def _why(wanted: str, precision: str, unit: str | None, device: str) -> str:
    if wanted != "auto":
        slow = precision == "bf16" and unit is None
        return f", which this {device.upper()} only emulates: slower than fp32" if slow else ""
    return f", since {unit}" if unit else f", since this {device.upper()} has no bf16 in hardware"
