"""A fused network against the same network unfused, and the ways in which fusing must not show."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aurep
from aurep.kernels import CHOICES, using
from aurep.models import build_model
from aurep.modes import evaluating
from aurep.surgery import hybrid_sites, normalise_polynomials
from aurep.surgery.fusion import NormedActivation, fuse
from tests.needs import needs_cpu_kernels
from tests.tolerances import FLOAT32, FLOAT64
from tests.toolkit.kernels.comparing import double


class Shortcuts(nn.Module):
    """Every way in which a norm can reach a site, and some that must be left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(6))
        self.norms[4] = nn.BatchNorm2d(3, affine=False)
        self.head = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(0, x).relu()  # alone
        x = torch.relu(x + self.norm(1, x))  # the norm as second term
        y = self.norm(2, x)
        y += self.norm(3, x)
        x = y.relu()  # two norms, summed in place
        x = self.norm(4, x).relu()  # without weights: left alone
        y = self.norm(5, x)
        x = (y + y.mean()).relu()  # the norm's output has two readers: left alone
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    def norm(self, k: int, x: Tensor) -> Any:
        return self.norms[k](self.convs[k](x))


def prepared(network: nn.Module, degree: int = 2, size: int = 8) -> nn.Module:
    torch.manual_seed(0)
    model = aurep.prepare(network, torch.zeros(2, 3, size, size), degree=degree)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for site in hybrid_sites(model):
        site.mask.copy_(torch.rand(site.shape) > 0.5)
    return model.train()


def trained(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after one forward and backward."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = run(x)
    (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads, **dict(model.named_buffers())}


def fused_sites(model: nn.Module) -> list[str]:
    return [module.site.site for module in model.modules() if isinstance(module, NormedActivation)]


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_all_results_equal_the_unfused_ones(degree: int) -> None:
    model = prepared(Shortcuts(), degree).double()
    twin = copy.deepcopy(model)
    fused = fuse(twin)
    assert fused_sites(fused) == ["relu", "relu:1", "relu:2", "head.2"]
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    wanted, found = trained(model, model, x), trained(twin, fused, x)
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=FLOAT64, atol=FLOAT64, msg=name)


@needs_cpu_kernels
def test_normalised_powers_give_the_same_fused() -> None:
    model = prepared(Shortcuts()).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    normalise_polynomials(model, [torch.randn(16, 3, 8, 8, dtype=torch.float64)])
    model.train()
    twin = copy.deepcopy(model)
    expected, found = trained(twin, twin, x), trained(model, fuse(model), x)
    assert any(key.endswith("factors") for key in found)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=FLOAT64, atol=FLOAT64)


def test_compiled_kernels_give_the_same() -> None:
    model = prepared(build_model("resnet9", num_classes=10, width=4), size=16)
    x = torch.randn(4, 3, 16, 16)
    exact = copy.deepcopy(model).double()
    wanted = trained(exact, exact, x.double())
    with using("compiled"):
        found = trained(model, fuse(model), x)
    for name in wanted:
        # Through nine layers of batch norm, whose gradients are differences of nearly equal sums.
        scale = float(wanted[name].double().abs().max())
        torch.testing.assert_close(double(found[name]), wanted[name], rtol=10 * FLOAT32, atol=10 * FLOAT32 * scale)


@pytest.mark.parametrize("choice", CHOICES)
def test_training_saves_what_a_plain_network_saves(choice: Any) -> None:
    network = build_model("resnet18", num_classes=10, width=8)
    model, x = prepared(network, size=32), torch.randn(2, 3, 32, 32)
    with using(choice):
        plain, hybrid, fused = (saved_bytes(run, x) for run in (network.train(), model, fuse(model)))
    assert hybrid > 1.3 * plain  # what fusing is for
    # 1.049 are the inputs of the shortcuts' sums; the statistics of each channel weigh more in so narrow a net.
    assert fused < 1.06 * plain


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for backward, each storage once, parameters and buffers aside."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(x)
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


def test_state_and_modules_are_the_model_s_own() -> None:
    model = prepared(Shortcuts())
    before = set(model.state_dict())
    fused = fuse(model)
    assert set(model.state_dict()) == before
    assert {id(p) for p in fused.parameters()} == {id(p) for p in model.parameters()}
    assert not any(isinstance(module, NormedActivation) for module in model.modules())


def test_eval_mode_is_bit_equal_to_the_model() -> None:
    model, x = prepared(Shortcuts()), torch.randn(4, 3, 8, 8)
    fused = fuse(model)
    with evaluating(model):
        assert torch.equal(fused(x), model(x))


def test_hooks_on_a_site_see_its_input() -> None:
    model, x = prepared(Shortcuts()), torch.randn(4, 3, 8, 8)
    fused, seen = fuse(model), []
    site = hybrid_sites(model)[1]
    site.register_forward_hook(lambda _m, args, _y: seen.append(args[0]))
    fused(x)
    model(x)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1], rtol=FLOAT32, atol=FLOAT32)


def test_blending_sites_are_not_fused_away() -> None:
    model, x = prepared(Shortcuts()), torch.randn(4, 3, 8, 8)
    fused = fuse(model)
    for site in hybrid_sites(model):
        site.blend = True
    torch.testing.assert_close(fused(x), model(x), rtol=FLOAT32, atol=FLOAT32)


def test_autocast_keeps_the_dtype() -> None:
    model, x = prepared(build_model("resnet9", num_classes=10, width=4), size=16), torch.randn(4, 3, 16, 16)
    fused = fuse(model)
    with torch.autocast("cpu", torch.bfloat16):
        y = fused(x)
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_single_value_per_channel_is_refused_as_by_the_norm() -> None:
    model = prepared(nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        fuse(model)(torch.zeros(1, 3, 8, 8))


class Small(nn.Sequential):
    """Norm, residual sum and site, once each: tracing costs a compiler seconds per layer."""

    def __init__(self) -> None:
        norm, head = nn.BatchNorm2d(4), nn.Linear(64, 2)
        super().__init__(nn.Conv2d(3, 4, 3, 2, 1, bias=False), norm, nn.ReLU(), nn.Flatten(), head)
        self.residual = nn.Conv2d(3, 4, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self[4](self[3](self[2](self[1](self[0](x)) + self.residual(x))))
        return logits


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing does
@pytest.mark.parametrize("fusing", [False, True], ids=["plain", "fused"])
def test_a_compiled_graph_of_the_whole_model_gives_the_same(fusing: bool) -> None:
    model = prepared(Small())
    twin, x = copy.deepcopy(model), torch.randn(4, 3, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(fuse(twin) if fusing else twin, backend="aot_eager", fullgraph=True)
    wanted, found = trained(model, model, x), trained(twin, compiled, x)
    for name in wanted:
        scale = float(wanted[name].double().abs().max())
        torch.testing.assert_close(found[name], wanted[name], rtol=10 * FLOAT32, atol=10 * FLOAT32 * scale, msg=name)
