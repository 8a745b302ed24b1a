"""A network of three sites, driven through a search as the engine drives it, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import aurep
from aurep import HybridActivation
from aurep.search import Policy, check_options, make_policy
from aurep.surgery import hybrid_sites, tap_activations

SIZES = [3 * 6 * 6, 4 * 3 * 3, 10]
TOTAL = sum(SIZES)
BATCH = 5


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    convolutions = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(36, 10), nn.ReLU(), nn.Linear(10, 3))


def batches(steps: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(start, steps):
        draw = torch.Generator().manual_seed(100 + step)
        yield torch.randn(BATCH, 1, 6, 6, generator=draw), torch.randint(3, (BATCH,), generator=draw)


@dataclass
class Search:
    """A policy at work on a student."""

    method: str
    budget: int
    degree: int = 2
    options: dict[str, Any] | None = None
    epochs: int = 2
    steps: int = 3  # per epoch
    chosen: list[int] | None = None  # sites that may keep ReLUs; None: all
    start: bool = True  # else the test loads a state instead

    def __post_init__(self) -> None:
        self.teacher: nn.Module = network().eval().requires_grad_(False)
        self.student = aurep.prepare(network(), torch.zeros(1, 1, 6, 6), degree=self.degree)
        self.student.requires_grad_(True).train()
        self.sites: list[HybridActivation] = hybrid_sites(self.student)
        options = check_options(self.method, self.options or {})
        steps = self.epochs * self.steps
        self.policy: Policy = make_policy(
            self.method, self.sites, self.budget, options, 7, steps=steps, chosen=self.chosen
        )
        if self.policy.uses_teacher:
            self.teacher, activations = tap_activations(self.teacher, ("relu",), [site.site for site in self.sites])
            self.policy.watch(self.teacher, activations)
        if self.start:
            self.policy.start()
        groups = self.policy.parameter_groups()
        trained = {id(p) for group in groups for p in group["params"]}
        for site in self.sites:
            site.alpha.requires_grad_(id(site.alpha) in trained)
        weights = [p for name, p in self.student.named_parameters() if "alpha" not in name]
        self.optimizer = torch.optim.SGD([{"params": weights, "lr": 0.01}, *groups], lr=0.01)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(self.student(x), y)
        with torch.no_grad():
            self.teacher(x)
        penalty = self.policy.penalty()
        return loss if penalty is None else loss + penalty

    def run(self, start: int = 0, stop: int | None = None, look: Callable[[], None] = lambda: None) -> Search:
        """Steps `start` to `stop`; `look` is called after each."""
        total = self.epochs * self.steps
        for step, (x, y) in enumerate(batches(total if stop is None else stop, start), start):
            self.optimizer.zero_grad()
            self.loss(x, y).backward()
            self.optimizer.step()
            self.policy.after_step((step + 1) / total)
            look()
        return self

    def counts(self) -> list[int]:
        return [int(site.mask.sum()) for site in self.sites]

    def hooks(self) -> int:
        modules = [*self.student.modules(), *self.teacher.modules()]
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
