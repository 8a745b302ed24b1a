"""A running average of a network's weights, which generalises better than the last step's and needs no decayed rate.

After step t every weight and batch-norm statistic w moves its average a by  a <- d a + (1 - d) w  with
d = min(decay, (1 + t) / (10 + t)), so that the start, far from the end, is soon forgotten (Polyak and Juditsky, 1992;
the warm-up is TensorFlow's). Masks and counters are taken as they are. A normalised polynomial's coefficients are made
of the averaged factors and statistics: their own average is another polynomial, since they are quotients of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from aurep.activation import follow
from aurep.surgery import hybrid_sites


class Average:
    """Of the state of `model`, on its device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps, self._model = decay, 0, model
        self._live = {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
        self.values = {name: t.detach().clone() for name, t in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Called after every optimiser step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.values.values()), list(self._live.values()), 1 - decay)

    def take(self) -> None:
        """Give the model its average weights, and keep those it had."""
        self._swap()
        follow(hybrid_sites(self._model))

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            kept = live.clone()
            live.copy_(self.values[name])
            self.values[name] = kept

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has its average weights inside the block."""
        self.take()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.values = {name: state["values"][name].to(live) for name, live in self._live.items()}
