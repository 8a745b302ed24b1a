"""A frozen network folded for bfloat16 against the same network in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from aurep.models import build_model
from aurep.surgery import folded
from tests.tolerances import BFLOAT16


def settled(model: nn.Module, *shape: int) -> nn.Module:
    """With running statistics and norms unlike those of a fresh network."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(*shape))
    return model.eval().requires_grad_(False)


def in_bfloat16(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model(x).float()


@pytest.mark.parametrize("name", ["resnet20", "resnet9", "vgg16"])
def test_it_computes_the_same_but_for_rounding(name: str) -> None:
    torch.manual_seed(0)
    model = settled(build_model(name, num_classes=7, width=8, input_size=32), 8, 3, 32, 32)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(16, 3, 32, 32)
    wanted = model(x)
    fast = folded(model)
    norms = [n for n in fast.graph.nodes if isinstance(n.target, str) and "bn" in n.target]
    assert not norms
    assert {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d | nn.Linear)} == {torch.bfloat16}
    error = (in_bfloat16(fast, x) - wanted).abs().max()
    assert error < BFLOAT16 * wanted.abs().max()
    assert error < 2 * (in_bfloat16(model, x) - wanted).abs().max()  # no worse than autocast by itself
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Shared(nn.Module):
    """A convolution called twice, once before a norm; a norm whose input somebody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.twice(x)) + self.twice(x)
        y = self.once(x)
        return (self.norms[1](y) + y).mean((2, 3))


class Branching(nn.Module):
    """torch.fx cannot follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y.mean((2, 3)) if y.sum() > 0 else y.amax((2, 3))


@pytest.mark.parametrize("make", [Shared, Branching])
def test_what_cannot_be_folded_is_left_alone(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = settled(make(), 8, 3, 9, 9)
    x = torch.randn(8, 3, 9, 9)
    fast = folded(model)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in fast.modules()) == sum(
        isinstance(m, nn.BatchNorm2d) for m in model.modules()
    )
    torch.testing.assert_close(in_bfloat16(fast, x), model(x), rtol=BFLOAT16, atol=BFLOAT16)
