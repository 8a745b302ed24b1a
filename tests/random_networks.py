"""Random small CNNs for property tests: every kind of layer that the exporter and the validator must agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, SIZE, CLASSES = 4, 6, 3


@dataclass(frozen=True)
class Plan:
    """A network as drawn: `layers` by name (see `_LAYERS`), with the head's linear `site` or without."""

    layers: tuple[str, ...]
    site: bool
    seed: int

    def build(self) -> nn.Module:
        """In eval mode, on (N, 2, 6, 6)."""
        torch.manual_seed(self.seed)
        return Network(self).eval()


class Residual(nn.Module):
    """Its activation is called twice: one module, two sites."""

    def __init__(self, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, stride, 1, groups=groups, bias=False)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(CHANNELS), nn.BatchNorm2d(CHANNELS)
        self.short = nn.Conv2d(CHANNELS, CHANNELS, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        return self.relu(y + self.short(x))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(CHANNELS, 2, 1), nn.Conv2d(CHANNELS, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.left(x)), self.right(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation: its sigmoid is in no site."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(CHANNELS, 2, 1), nn.Conv2d(2, CHANNELS, 1)
        self.relu, self.gate = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.relu(self.down(x.mean((2, 3), keepdim=True)))))


def _after_conv(*layers: nn.Module, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, stride, 1), nn.BatchNorm2d(CHANNELS), *layers)


_LAYERS = {
    "conv": lambda: _after_conv(nn.ReLU()),
    "strided": lambda: _after_conv(nn.ReLU(), stride=2),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, groups=CHANNELS), nn.ReLU()),
    "residual": lambda: Residual(1, 1),
    "strided residual": lambda: Residual(2, 2),
    "concat": Branches,
    "gate": Gate,
    "relu6": lambda: _after_conv(nn.ReLU6()),
    "silu": lambda: _after_conv(nn.SiLU()),
    "max pool": lambda: nn.MaxPool2d(2, 1, 1),
    "average pool": lambda: nn.AvgPool2d(2, 1),
}
# Comparisons an element that leaves a module which is no site. (ReLU6 is cut at both ends.)
OUTSIDE = {nn.Sigmoid: 1, nn.SiLU: 1, nn.ReLU6: 2}


class Network(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, CHANNELS, 1), nn.ReLU())
        self.body = nn.Sequential(*(_LAYERS[name]() for name in plan.layers))
        self.hidden = nn.Sequential(nn.Linear(CHANNELS, 5), nn.ReLU()) if plan.site else nn.Identity()
        self.head = nn.Linear(5 if plan.site else CHANNELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.body(self.stem(x)).mean((2, 3))))


plans = st.builds(
    Plan,
    layers=st.lists(st.sampled_from(sorted(_LAYERS)), min_size=1, max_size=4).map(tuple),
    site=st.booleans(),
    seed=st.integers(0, 2**16),
)


def outside(model: nn.Module, x: Tensor) -> int:
    """Elements per image that modules of `OUTSIDE` compare when `model` runs on `x`."""
    found = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal found
        found += OUTSIDE[type(module)] * output[0].numel()

    hooks = [module.register_forward_hook(add) for module in model.modules() if type(module) in OUTSIDE]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found
