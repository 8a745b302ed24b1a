"""Random small CNNs for property tests: every kind of layer that the exporter and the validator must agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from aurep import HybridActivation

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
    "max pool": lambda: nn.MaxPool2d(3, 1, 1),
    "growing max pool": lambda: nn.MaxPool2d(2, 1, 1),
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


@dataclass
class Compared:
    """Elements per image that a network compares outside of its sites, as its modules say.

    Attributes:
        outside: by modules of `OUTSIDE`, and by poolings of what is no feature map.
        pooling: by poolings of feature maps.
    """

    outside: int = 0
    pooling: int = 0


def compared(model: nn.Module, x: Tensor) -> Compared:
    """Watched while `model`, a chain of layers, runs on `x`.

    Past a pooling whose border makes a map grow, or a site that has several polynomials in a channel, positions are no
    longer alike, and a maximum over them could be a ReLU.
    """
    found, alike = Compared(), True

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal alike
        elements = output[0].numel()
        if isinstance(module, HybridActivation):
            alike = alike and _even(module)
        elif isinstance(module, nn.MaxPool2d):
            size, padding = int(module.kernel_size), int(module.padding)
            found.pooling += (size**2 - 1) * elements * alike
            found.outside += (size**2 - 1) * elements * (not alike)
            alike = alike and 2 * padding < size
        else:
            found.outside += OUTSIDE[type(module)] * elements

    watched = (*OUTSIDE, HybridActivation, nn.MaxPool2d)
    hooks = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, watched)]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def _even(site: HybridActivation) -> bool:
    """Whether each channel has one polynomial for all its replaced elements."""
    if site.coefficients is None:
        return True
    rows = site.coefficients.expand(*site.shape, -1) if site.coefficients.dim() > 2 else None
    chosen = [] if rows is None else [row[~mask] for row, mask in zip(rows, site.mask, strict=True)]
    return all(len(row.unique(dim=0)) <= 1 for row in chosen if len(row))
