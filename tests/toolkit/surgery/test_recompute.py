"""Activation checkpointing: the same gradients, state and results to the bit, from less that is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aurep import AurepError, fit_polynomials, prepare
from aurep.activation import HybridActivation
from aurep.models import build_model
from aurep.surgery import fuse, hybrid_sites, normalise_polynomials, recomputed
from aurep.surgery.recompute import Recomputed
from aurep.training.losses import Pram, RangePenalty, stage_outputs


class InPlace(nn.Module):
    """Blocks that overwrite: SiLUs in place (whose second run would not be their first), a sum in place, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(8))
        self.silu, self.dropout, self.head = nn.SiLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](self.convs[0](x))
        for i in range(1, 8):
            y = self.norms[i](self.convs[i](self.silu(x)))
            y += 0.5
            x = self.dropout(y)
        return self.head(x.mean((2, 3)))


def hybrid(name: str = "resnet18") -> nn.Module:
    torch.manual_seed(0)
    model = prepare(build_model(name, num_classes=4, width=4, input_size=32), torch.zeros(2, 3, 32, 32))
    for site in hybrid_sites(model):
        site.set_mask(torch.rand(site.shape) < 0.5)
    fit_polynomials(model, [torch.randn(4, 3, 32, 32)])
    return model


def plain() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet9", num_classes=4, width=4, input_size=32)


def in_place() -> nn.Module:
    torch.manual_seed(0)
    return InPlace()


def step(run: nn.Module, model: nn.Module, terms: Callable[[], Tensor] | None = None) -> Tensor:
    """Forward and backward in training; gradients stay on `model`."""
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    run.train()
    model.train()
    torch.manual_seed(2)
    logits = run(x)
    loss = F.cross_entropy(logits, torch.arange(6) % 4)
    (loss if terms is None else loss + terms()).backward()
    return logits.detach()


def assert_same_state(left: nn.Module, right: nn.Module) -> None:
    for (name, a), b in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for (name, p), q in zip(left.named_parameters(), right.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or q.grad is None or torch.equal(p.grad, q.grad), name


def normalised() -> nn.Module:
    model = hybrid()
    normalise_polynomials(model, [torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))])
    return model


MODELS = {
    "hybrid": hybrid,
    "normalised": normalised,
    "VGG": lambda: hybrid("vgg16"),
    "plain": plain,
    "in place": in_place,
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_gradients_statistics_and_outputs_are_the_same_to_the_bit(make: Callable[[], nn.Module]) -> None:
    model, other = make(), make()
    run = recomputed(other)
    assert sum(isinstance(module, Recomputed) for module in run.modules()) >= 3
    for _ in range(2):
        assert torch.equal(step(model, model), step(run, other))
        assert_same_state(model, other)
    batch_norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert batch_norms
    assert {int(m.num_batches_tracked) for m in batch_norms} == {2}
    run.eval()
    other.eval()
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(run(x), model.eval()(x))


def test_fused_networks_can_be_checkpointed() -> None:
    model, other = hybrid(), hybrid()
    fused, run = fuse(model), recomputed(fuse(other))
    for _ in range(2):
        assert torch.equal(step(fused, model), step(run, other))
        assert_same_state(model, other)


def test_terms_that_hook_sites_see_each_step_once() -> None:
    model, other = hybrid(), hybrid()
    plainly, twice = (with_terms(model, model), with_terms(recomputed(other), other))
    assert torch.equal(plainly, twice)
    assert len(set(plainly.tolist())) == 3
    assert_same_state(model, other)


def with_terms(run: nn.Module, model: nn.Module) -> Tensor:
    """The terms' values over three steps, with other weights in each."""
    sites, values = hybrid_sites(model), []
    taps = [nn.Identity() for _ in sites]
    terms = RangePenalty(sites, 1.0, 0.5), Pram(sites, taps, 10.0)

    def total() -> Tensor:
        for k in stage_outputs([site.shape for site in sites]):
            taps[k](torch.ones(6, *sites[k].shape))  # the teacher's
        values.append(torch.stack([term() for term in terms]).sum())
        return values[-1]

    for number in range(3):
        step(run, model, total)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1 + 0.1 * number)
    return torch.stack(values).detach()


def test_less_is_kept_for_backward() -> None:
    """Bytes that autograd holds between forward and backward, parameters aside."""
    model = hybrid()
    held = []
    for run in (model, recomputed(model)):
        tensors: dict[int, int] = {}

        def note(tensor: Tensor, tensors: dict[int, int] = tensors) -> Tensor:
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        hooks = []
        for module in run.modules():
            if isinstance(module, Recomputed):  # its inputs are all that it keeps
                hooks.append(module.register_forward_pre_hook(lambda _m, args: [note(x) for x in args] and None))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            logits = run.train()(torch.randn(8, 3, 32, 32))
        held.append(sum(tensors.values()) - sum(p.untyped_storage().nbytes() for p in model.parameters()))
        del logits
        for hook in hooks:
            hook.remove()
    assert held[1] < held[0] / 2


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(AurepError, match="cannot be checkpointed"):
        recomputed(Branching())


def test_the_network_itself_is_left_alone() -> None:
    model = hybrid()
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_modules()]
    run = recomputed(model)
    assert [name for name, _ in model.named_modules()] == names
    assert before.keys() == model.state_dict().keys()
    assert {id(p) for p in run.parameters()} == {id(p) for p in model.parameters()}
    assert any(isinstance(module, HybridActivation) for module in run.modules())
