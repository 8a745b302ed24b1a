"""What a run will take, told before it starts: a few steps of each kind are timed, and what they save is counted.

Everything happens on copies and leaves no trace in the run's random numbers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from aurep.kernels import using
from aurep.surgery import fuse, hybrid_sites
from aurep.training.config import TrainConfig

_STEPS = 3  # timed, after one that warms up
_OPTIMIZER_COPIES = 4  # of a parameter: itself, its gradient, and two moments of AdamW
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Forecast:
    """Seconds per optimiser step of each phase, and the most bytes that a step holds: activations and parameters."""

    seconds: Mapping[str, float]
    memory: int

    def total(self, steps: Mapping[str, int]) -> float:
        """Seconds of `steps` in each phase."""
        return sum(self.seconds[phase] * count for phase, count in steps.items())

    def sentence(self, steps: Mapping[str, int], device: str) -> str:
        """What to expect of `steps` in each phase on `device`."""
        parts = [f"{phase} {spoken(self.total({phase: count}))}" for phase, count in steps.items() if count]
        return (
            f"training takes about {spoken(self.total(steps))} on this {device} ({', '.join(parts)}), validation "
            f"aside; a step holds {spoken_bytes(self.memory)}"
        )


def forecast(plain: nn.Module, student: nn.Module, x: Tensor, fabric: Fabric, options: TrainConfig) -> Forecast:
    """Time training steps of the all-ReLU network and of the student beside its teacher, on inputs `x`.

    The student is timed with every element replaced, which is what most of its steps are close to.
    """
    student = copy.deepcopy(student)
    for site in hybrid_sites(student):
        site.mask.zero_()
        site.alpha.requires_grad_(False)
    if options.fuse is True:
        student = fuse(student)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), using(options.kernels):
        baseline, first = _timed(copy.deepcopy(plain).train(), None, x, fabric)
        taught, second = _timed(student.train(), copy.deepcopy(plain).eval(), x, fabric)
    return Forecast({"baseline": baseline, "search": taught, "finetune": taught}, max(first, second))


def _timed(network: nn.Module, teacher: nn.Module | None, x: Tensor, fabric: Fabric) -> tuple[float, int]:
    seconds, saved = [], 0
    for step in range(_STEPS + 1):
        started = time.perf_counter()
        held: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(partial(_held, held), lambda saved: saved):
            with fabric.autocast():
                logits = network(x)
            loss = logits.float().logsumexp(1).mean()
        if teacher is not None:
            with torch.no_grad(), fabric.autocast():
                teacher(x)
        loss.backward()
        saved = max(saved, sum(held.values()))
        if fabric.device.type == "cuda":
            torch.cuda.synchronize(fabric.device)
        if step:
            seconds.append(time.perf_counter() - started)
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    return median(seconds), saved + _OPTIMIZER_COPIES * parameters


def _held(held: dict[int, int], tensor: Tensor) -> Tensor:
    storage = tensor.untyped_storage()
    held[storage.data_ptr()] = storage.nbytes()
    return tensor


def spoken(seconds: float) -> str:
    """About how long, as one would say it: "40 s", "25 min", "2 h 10 min"."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOUR:
        return f"{round(seconds / _MINUTE)} min"
    minutes = round(seconds / (10 * _MINUTE)) * 10  # nobody plans by the minute over hours
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def spoken_bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{max(1, round(count / 2**20))} MiB"
