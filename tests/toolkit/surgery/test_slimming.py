"""A narrow network against the full one with the dropped channels set to zero, which is what it stands for."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import aurep
from aurep.models.resnet import ResNet
from aurep.models.vgg import VGG16
from aurep.models.wide_resnet import WideResNet
from aurep.surgery import Narrow, add_narrower, hybrid_sites, narrowed, narrower
from tests import tolerances

LAYERS = (nn.Conv2d, nn.Linear)


class Odd(nn.Module):
    """Depthwise and grouped convolutions, a gate per channel, concatenation, features from every position."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.bn = nn.BatchNorm2d(12)
        self.gate = nn.Conv2d(6, 6, 1)
        self.side = nn.Conv2d(6, 5, 1)
        self.hidden = nn.Linear(17 * 16, 10)
        self.norm = nn.BatchNorm1d(10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        y = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        y = torch.relu(self.bn(self.depthwise(y)))
        z = torch.cat([self.side(x), y], 1)
        z = self.norm(self.hidden(z.view(z.size(0), -1))).relu()
        return self.head(F.dropout(z, training=False))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (lambda: ResNet((1, 1, 1, 1), num_classes=5, in_channels=3, width=3, stem_relu=True), 8),
    "wide_resnet": (lambda: WideResNet(10, num_classes=5, in_channels=3, width=16), 8),
    "vgg16": (lambda: VGG16(num_classes=5, in_channels=3, width=3), 32),
    "odd": (Odd, 8),
}


def made(name: str, seed: int, widths: tuple[float, ...], degree: int = 2) -> tuple[nn.Module, list[Narrow], Tensor]:
    """A prepared network in float64 with random masks and coefficients, and batch norms that differ at every width."""
    torch.manual_seed(seed)
    build, pixels = NETWORKS[name]
    x = torch.randn(3, 3, pixels, pixels).double()
    full = aurep.prepare(build().double(), x, degree=degree).double()
    for site in hybrid_sites(full):
        site.set_mask(torch.rand(site.shape) < 0.4)
        if site.coefficients is not None:
            site.set_coefficients(torch.randn_like(site.coefficients) / 2)
    narrow = add_narrower(full, x, widths)
    for module in full.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.copy_(torch.rand_like(tensor) + 0.3)
    return full.eval(), narrow, x


def zeroed(full: nn.Module, narrow: Narrow) -> list[Any]:
    """Hooks on the full network: every layer but the head, every site and batch norm, zero beyond the first channels.

    Which channels these are is found from the full network alone, with two exceptions written out: the outputs of a
    depthwise convolution with a multiplier, and a concatenation, whose channels are zero where its sources' are.
    """
    paths = {module: path for path, module in full.named_modules() if not path.startswith("narrower")}
    hooks = []

    def dropping(path: str, norm: bool) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            share = narrow.width_multiplier
            keep = ceil(round(share * output.shape[1], 9))
            if getattr(module, "groups", 1) > 1:
                keep = ceil(round(share * module.in_channels, 9)) * output.shape[1] // module.in_channels
            if path == "bn" and "depthwise" in paths.values():
                keep = ceil(round(share * 6, 9)) * 2
            if norm:
                own = narrow.norms.get_submodule(path)
                shape = (1, -1, *[1] * (output.dim() - 2))
                wide = [F.pad(t, (0, output.shape[1] - keep)) for t in (own.running_mean, own.running_var)]
                scale, shift = (F.pad(t, (0, output.shape[1] - keep)) for t in (own.weight, own.bias))
                mean, variance = (t.view(shape) for t in wide)
                output = (inputs[0] - mean) / (variance + own.eps).sqrt() * scale.view(shape) + shift.view(shape)
            return output * (torch.arange(output.shape[1]) < keep).view(1, -1, *[1] * (output.dim() - 2))

        return hook

    def silencing(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        silent = (inputs[0] == 0).flatten(2).all(2).all(0) if output.dim() == 4 else (inputs[0] == 0).all(0)
        return output.masked_fill(silent.view(1, -1, *[1] * (output.dim() - 2)), 0.0)

    for module, path in paths.items():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(dropping(path, True)))
        elif isinstance(module, LAYERS) and path not in ("fc", "head"):
            hooks.append(module.register_forward_hook(dropping(path, False)))
        elif isinstance(module, aurep.HybridActivation):
            hooks.append(module.register_forward_hook(silencing))
    return hooks


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(list(NETWORKS)), st.integers(0, 99), st.sampled_from([0.25, 0.3, 0.5, 0.7, 0.9]), st.integers(0, 2)
)
def test_narrow_network_is_the_full_one_without_the_other_channels(
    name: str, seed: int, width: float, degree: int
) -> None:
    full, (narrow,), x = made(name, seed, (width, 1.0), degree)
    logits = narrow(x)
    weights = {path: p for path, p in full.named_parameters() if "alpha" not in path and "narrower" not in path}
    found = torch.autograd.grad(logits.square().sum(), list(weights.values()), allow_unused=True)
    alone = narrow.network()
    hooks = zeroed(full, narrow)
    expected = full(x)
    torch.testing.assert_close(logits, expected, rtol=tolerances.FLOAT64, atol=tolerances.FLOAT64)
    torch.testing.assert_close(alone(x), expected, rtol=tolerances.FLOAT64, atol=tolerances.FLOAT64)
    wanted = torch.autograd.grad(expected.square().sum(), list(weights.values()), allow_unused=True)
    for path, mine, theirs in zip(weights, found, wanted, strict=True):
        if mine is not None:  # the full network's batch norms take no part
            scale = float(theirs.abs().max()) + 1
            torch.testing.assert_close(mine / scale, theirs / scale, rtol=0, atol=tolerances.FLOAT64, msg=path)
    assert all(hook.remove() is None for hook in hooks)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_width_keeps_the_relus_in_its_channels(name: str) -> None:
    full, (narrow,), _ = made(name, 1, (0.5, 1.0))
    wide, cut = {site.site: site for site in hybrid_sites(full)}, hybrid_sites(narrow.network())
    assert [site.site for site in cut] == list(wide)
    for site in cut:
        channels = site.shape[0]
        assert channels == ceil(wide[site.site].shape[0] / 2)
        assert torch.equal(site.mask, wide[site.site].mask[:channels])
    kept = sum(site.kept for site in aurep.relu_sites(narrow.network()))
    assert 0 < kept < sum(site.kept for site in aurep.relu_sites(full))


def test_masks_and_weights_of_the_full_network_are_followed_and_batch_norms_are_not() -> None:
    full, (narrow,), x = made("resnet", 3, (0.5, 1.0))
    before = narrow(x)
    with torch.no_grad():
        full.get_submodule("bn1").weight.mul_(3)
    assert torch.equal(narrow(x), before)
    hybrid_sites(full)[0].set_mask(~hybrid_sites(full)[0].mask)
    assert not torch.equal(narrow(x), before)
    before = narrow(x)
    with torch.no_grad():
        full.get_submodule("layer1.0.conv1").weight.mul_(1.5)
    assert not torch.equal(narrow(x), before)


def test_training_mode_follows_and_moves_only_the_widths_own_statistics() -> None:
    full, (narrow,), x = made("resnet", 3, (0.5, 1.0))
    state = {key: value.clone() for key, value in full.state_dict().items()}
    full.train()
    narrow(x)
    moved = {key for key, value in full.state_dict().items() if not torch.equal(value, state[key])}
    assert moved
    assert all(key.startswith("narrower.0_5.norms.") for key in moved)
    full.eval()
    state = {key: value.clone() for key, value in full.state_dict().items()}
    narrow(x)
    assert all(torch.equal(value, state[key]) for key, value in full.state_dict().items())


def test_state_holds_every_tensor_once() -> None:
    full, narrow, _ = made("resnet", 3, (0.25, 0.5, 1.0))
    extra = {key.split(".", 3)[3] for key in full.state_dict() if key.startswith("narrower.0_25.norms.")}
    norms = {path for path, m in full.named_modules() if isinstance(m, nn.BatchNorm2d) and not path.startswith("narr")}
    assert {key.rpartition(".")[0] for key in extra} == norms
    plain = [key for key in full.state_dict() if not key.startswith("narrower")]
    assert len(full.state_dict()) == len(plain) + 2 * len(extra)
    assert [n.width_multiplier for n in narrow] == [n.width_multiplier for n in narrower(full)] == [0.5, 0.25]


def test_network_at_each_width() -> None:
    full, narrow, x = made("resnet", 3, (0.25, 0.5, 1.0))
    expected = {1.0: full(x), **{n.width_multiplier: n(x) for n in narrow}}
    with pytest.raises(aurep.AurepError, match=r"width multiplier 0\.75.*1, 0\.5, 0\.25"):
        narrowed(full, 0.75)
    for width in (0.5, 0.25, 1.0):
        network = narrowed(full, width)
        torch.testing.assert_close(network(x), expected[width], rtol=0, atol=tolerances.FLOAT64)
        assert not any("narrower" in key for key in network.state_dict())
    assert narrowed(full, 1.0) is full


class Doing(nn.Module):
    """A convolution, `operation`, and a head."""

    def __init__(
        self, operation: Callable[[Tensor], Tensor], channels: int = 4, extra: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv, self.operation, self.extra = nn.Conv2d(2, 4, 1), operation, extra or nn.Identity()
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.extra(self.operation(self.conv(x).relu()))).mean((2, 3))


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "channels of the image": (Doing(lambda x: x + x.new_zeros(x.shape), 4), "new_zeros"),
    "mean over channels": (Doing(lambda x: x.mean(1, keepdim=True), 1), "mean"),
    "transposed": (Doing(lambda x: x.transpose(1, 2), 4), "transpose"),
    "group norm": (Doing(lambda x: x, 4, nn.GroupNorm(2, 4)), "GroupNorm"),
    "cut group": (Doing(lambda x: x, 4, nn.Conv2d(4, 4, 1, groups=2)), "groups of 2 channels"),
}


@pytest.mark.parametrize(("network", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_channels_cannot_be_followed_through_is_refused(network: nn.Module, message: str) -> None:
    prepared = aurep.prepare(network, torch.zeros(1, 2, 4, 4))
    with pytest.raises(aurep.AurepError, match=rf"{message}.*search\.width_multipliers"):
        add_narrower(prepared, torch.zeros(1, 2, 4, 4), (0.2, 1.0))


def test_sums_of_different_channels_are_refused() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.conv(x) + x).relu()).flatten(1)

    x = torch.zeros(1, 4, 1, 1)
    with pytest.raises(aurep.AurepError, match="different channels"):
        add_narrower(aurep.prepare(Sum(), x), x, (0.5, 1.0))


def test_untraceable_network_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.conv(x)).mean((2, 3))
            return self.fc(y) if y.sum() >= 0 else self.fc(-y)

    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(aurep.AurepError, match=r"torch\.fx cannot trace"):
        add_narrower(aurep.prepare(Branching(), x), x, (0.5, 1.0))
