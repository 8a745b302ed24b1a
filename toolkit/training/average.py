"""A running average of a network's weights, which generalises better than the last step's and needs no decayed rate.

After step t every parameter w moves its average a by  a <- d a + (1 - d) w  with d = min(decay, (1 + t) / (10 + t)), so
that the start, far from the end, is soon forgotten (Polyak and Juditsky, 1992; the warm-up is TensorFlow's). Masks and
counters are taken as they are. Statistics belong to weights: those of batch norms and of normalised polynomials are for
`aurep.surgery.measure_statistics` to find, and coefficients made of them follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Average:
    """Of the parameters of `model`, on its device."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._live = {name: p.detach() for name, p in model.named_parameters()}
        self.values = {name: p.clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Called after every optimiser step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.values.values()), list(self._live.values()), 1 - decay)

    def take(self) -> None:
        """Give the model its average weights."""
        for name, live in self._live.items():
            live.copy_(self.values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.values = {name: state["values"][name].to(live) for name, live in self._live.items()}
