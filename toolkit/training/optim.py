"""Optimisers, and the one learning-rate schedule: a function of the step, so that a resume has none to restore."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from aurep.surgery import hybrid_sites
from aurep.training.config import PhaseConfig, StudentConfig

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def make_optimizer(
    model: nn.Module, config: PhaseConfig, extra_groups: Iterable[dict[str, Any]] = ()
) -> torch.optim.Optimizer:
    """Weights decay; biases, norms and polynomial coefficients do not. Coefficients have a rate of their own.

    Each group carries `peak_lr`, which `set_learning_rate` scales unless the group says `constant`. Parameters that
    want no gradient are left out.
    """
    sites = hybrid_sites(model)
    coefficients = [site.trained for site in sites if site.trained is not None]
    theirs = {id(p) for s in sites for p in s.parameters()}
    shifts = {id(m.bias) for m in model.modules() if isinstance(m, _NORMS)} if config.bias_lr != 1 else set()
    rest = [p for p in model.parameters() if id(p) not in theirs and p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1 and id(p) not in shifts], "lr": config.lr, "weight_decay": 0.0},
        {"params": [p for p in rest if id(p) in shifts], "lr": config.lr * config.bias_lr, "weight_decay": 0.0},
    ]
    if coefficients and isinstance(config, StudentConfig):
        groups.append({"params": coefficients, "lr": config.coefficient_lr, "weight_decay": 0.0})
    groups += [{"weight_decay": 0.0, **group} for group in extra_groups]
    groups = [{**group, "peak_lr": group["lr"]} for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr)


def rate(progress: float, warmup: float, final: float) -> float:
    """Share of the peak rate at `progress` in [0, 1]: linear up over `warmup`, then a cosine down to `final`."""
    if progress < warmup:
        return progress / warmup
    fallen = (progress - warmup) / (1 - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * fallen)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, config: PhaseConfig, step: int, steps: int) -> float:
    """Set every group's rate for `step` of `steps` (0-based), but of constant ones, and return the first's."""
    share = rate((step + 1) / steps, config.warmup, config.final_lr)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * (1.0 if group.get("constant") else share)
    return float(optimizer.param_groups[0]["lr"])
