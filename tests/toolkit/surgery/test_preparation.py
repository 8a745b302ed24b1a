"""Surgery on networks that call their activations in every way PyTorch has."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import aurep
from aurep import AurepError, HybridActivation
from aurep.surgery import hybrid_sites, tap_activations
from tests.tolerances import LEAST_SQUARES

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "F.relu(inplace) positional": lambda x: F.relu(x, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "keyword": lambda x: F.relu(input=x),
}


class Functional(nn.Module):
    """conv -> activation -> conv + input of the activation (which an in-place call has rectified) -> mean."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.call = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), call

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return (self.second(self.call(x)) + x).mean((2, 3))


class Shared(nn.Module):
    """One module called three times, twice of them in place."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 5), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x))
        z = self.relu(self.conv(y) - y)
        return self.head(self.relu(z + x.clone()))


class DataDependent(nn.Module):
    def __init__(self, functional: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()
        self.functional, self.twice = functional, twice

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            x = x * 2
        x = self.relu(self.conv(x))
        x = F.relu(x - 0.1) if self.functional else x
        x = self.relu(x - 0.1) if self.twice else x
        return x.mean((2, 3))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_call_becomes_a_site_and_outputs_stay_bit_equal(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    model = Functional(call).eval()
    prepared = aurep.prepare(model, x)
    assert [(s.name, s.shape, s.kept) for s in aurep.relu_sites(prepared)] == [("relu", (4, 6, 6), 144)]
    assert torch.equal(prepared(x), model(x))


@pytest.mark.parametrize("inplace", [False, True])
def test_shared_module_gets_a_site_per_call(inplace: bool, x: Tensor) -> None:
    model = Shared(inplace)
    prepared = aurep.prepare(model, x)
    assert [s.name for s in aurep.relu_sites(prepared)] == ["relu", "relu:1", "relu:2", "head.2"]
    assert torch.equal(prepared.eval()(x), model.eval()(x))
    keys = {k for k in prepared.state_dict() if k.startswith("relu:1.")}
    assert keys == {"relu:1.alpha", "relu:1.mask", "relu:1.coefficients"}


def test_in_place_relu_does_not_rectify_what_the_polynomial_sees(x: Tensor) -> None:
    model = Shared(inplace=True)
    prepared = aurep.prepare(model, x).eval()
    aurep.set_mask(prepared, "relu", torch.zeros(3, 6, 6))
    seen: list[Tensor] = []
    site = next(m for m in prepared.modules() if isinstance(m, HybridActivation))
    site.register_forward_hook(lambda m, args, out: seen.extend([args[0].clone(), out]))
    prepared(x)
    assert (seen[0] < 0).any()
    c0, c1, c2 = site.coefficients.detach()[:, :, None, None].unbind(1)
    torch.testing.assert_close(seen[1], (c2 * seen[0] + c1) * seen[0] + c0)


def test_original_model_is_untouched(x: Tensor) -> None:
    model = Shared(False).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    prepared = aurep.prepare(model, x)
    assert prepared.training
    assert not any(isinstance(m, HybridActivation) for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_untraceable_model_falls_back_to_its_modules(x: Tensor) -> None:
    model = DataDependent().eval()
    prepared = aurep.prepare(model, x)
    assert [s.name for s in aurep.relu_sites(prepared)] == ["relu"]
    assert torch.equal(prepared(x), model(x))


@pytest.mark.parametrize("options", [{"functional": True}, {"twice": True}], ids=["functional", "twice"])
def test_untraceable_model_that_cannot_fall_back_names_the_line(options: dict[str, bool], x: Tensor) -> None:
    with pytest.raises(AurepError, match=r"test_preparation.py:\d+: if x.sum"):
        aurep.prepare(DataDependent(**options), x)


def test_forward_that_depends_on_training_is_not_frozen_by_the_trace(x: Tensor) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.relu(self.conv(x)), 0.5, self.training)

    prepared = aurep.prepare(Dropping(), x)
    assert not torch.equal(prepared.train()(x), prepared(x))
    assert torch.equal(prepared.eval()(x), prepared(x))


@pytest.mark.parametrize(
    ("kind", "module"),
    [("relu6", nn.ReLU6()), ("silu", nn.SiLU()), ("hardswish", nn.Hardswish()), ("gelu", nn.GELU())],
    ids=["relu6", "silu", "hardswish", "gelu"],
)
def test_other_activations_are_taken_over_on_request(kind: str, module: nn.Module, x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), module, nn.Conv2d(4, 4, 3), nn.ReLU())
    assert [s.name for s in aurep.relu_sites(aurep.prepare(model, x))] == ["3"]
    assert [s.name for s in aurep.relu_sites(aurep.prepare(model, x, replace=("relu", kind)))] == ["1", "3"]
    prepared = aurep.prepare(model, x, replace="auto")
    assert [(site.site, site.replaces) for site in hybrid_sites(prepared)] == [("1", kind), ("3", "relu")]
    _, taps = tap_activations(model, "auto", ["1", "3"])
    assert len(taps) == 2


class OwnActivation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class OwnReLU(nn.ReLU):
    pass


@pytest.mark.parametrize("activation", [OwnActivation, OwnReLU])
def test_activations_of_the_user_s_own_without_tensors(activation: type[nn.Module], x: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation(), nn.Conv2d(4, 4, 3), activation()).eval()
    prepared = aurep.prepare(model, x)
    assert len(aurep.relu_sites(prepared)) == 2
    assert torch.equal(prepared(x), model(x))


POOLINGS = {
    "function": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "torch's own": lambda x: torch.max_pool2d(x, 3, 2, 1),
    "keywords": lambda x: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1),
}


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), *POOLINGS.values()], ids=["module", *POOLINGS])
def test_maxpool_avg_swaps_every_max_pooling(pool: Callable[[Tensor], Tensor], x: Tensor) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool = nn.ReLU(), pool

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.relu(x))

    expected = F.avg_pool2d(x.relu(), 3, 2, 1, count_include_pad=False)
    torch.testing.assert_close(aurep.prepare(Pooled(), x, maxpool="avg")(x), expected)
    torch.testing.assert_close(aurep.prepare(Pooled(), x)(x), F.max_pool2d(x.relu(), 3, 2, 1))


@pytest.mark.parametrize("functional", [False, True])
def test_maxpool_avg_swaps_adaptive_max_pooling(functional: bool, x: Tensor) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool = nn.ReLU(), nn.AdaptiveMaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(x)
            return F.adaptive_max_pool2d(x, 2) if functional else self.pool(x)

    torch.testing.assert_close(aurep.prepare(Pooled(), x, maxpool="avg")(x), F.adaptive_avg_pool2d(x.relu(), 2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_set_mask_is_what_the_sites_then_report(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    prepared = aurep.prepare(Shared(False), torch.zeros(1, 3, 6, 6))
    mask = torch.rand(3, 6, 6, generator=draw) > torch.rand(1, generator=draw)
    aurep.set_mask(prepared, "relu:1", mask)
    assert {s.name: s.kept for s in aurep.relu_sites(prepared)}["relu:1"] == int(mask.sum())


def test_fit_polynomials_minimises_each_site_s_error(x: Tensor) -> None:
    torch.manual_seed(0)
    prepared = aurep.prepare(Shared(False), x).train()
    batches = [torch.randn(16, 3, 6, 6) for _ in range(4)]
    seen: list[Tensor] = []
    site = prepared.get_submodule("relu:1")
    aurep.fit_polynomials(prepared, ((batch, torch.zeros(16)) for batch in batches))
    assert prepared.training
    site.register_forward_pre_hook(lambda m, args: seen.append(args[0].double()))
    with torch.no_grad():
        prepared.eval()
        for batch in batches:
            prepared(batch)
    values = torch.cat(seen)[:, 2].flatten().numpy()
    import numpy as np

    oracle = np.polynomial.polynomial.polyfit(values, np.maximum(values, 0), 2)
    found = site.coefficients[2].tolist()
    # the coefficients are stored as fp32, which rounds them to 6e-8
    np.testing.assert_allclose(found, oracle, rtol=LEAST_SQUARES, atol=LEAST_SQUARES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 3}, "degree"),
        ({"replace": ("tanh",)}, "tanh"),
        ({"replace": "relu"}, "auto"),
        ({"maxpool": "min"}, "maxpool"),
        ({"coefficients": "row"}, "coefficients"),
    ],
    ids=["degree", "replace", "replace-text", "maxpool", "coefficients"],
)
def test_unknown_options_are_refused(options: dict[str, object], message: str, x: Tensor) -> None:
    with pytest.raises(AurepError, match=message):
        aurep.prepare(Shared(False), x, **options)


class Smooth(nn.Module):
    """No ReLU in it: modules and functions, called here and there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.leaky, self.silu = nn.Conv2d(3, 3, 1), nn.LeakyReLU(), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.leaky_relu(self.silu(self.leaky(self.conv(x)))))


class Branching(Smooth):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > -1e9 else x


def test_nothing_to_replace_names_the_activations_there_are(x: Tensor) -> None:
    with pytest.raises(AurepError, match=r"calls none of relu, relu6, .* its activations are none; aurep takes over"):
        aurep.prepare(nn.Conv2d(3, 4, 3), x, replace="auto")
    with pytest.raises(
        AurepError, match=r"its activations are LeakyReLU \(2\), silu \(1\), Tanh \(1\); take over silu"
    ):
        aurep.prepare(Smooth(), x, replace=("relu",))
    with pytest.raises(AurepError, match=r"its activations are LeakyReLU \(1\), silu \(1\); take over silu"):
        aurep.prepare(Branching(), x)  # which torch.fx cannot trace: its modules are what is known


def test_preparing_twice_is_refused(x: Tensor) -> None:
    with pytest.raises(AurepError, match="already prepared"):
        aurep.prepare(aurep.prepare(Shared(False), x), x)


def test_unknown_site_lists_the_known_ones(x: Tensor) -> None:
    with pytest.raises(AurepError, match="relu:2"):
        aurep.set_mask(aurep.prepare(Shared(False), x), "relu9", torch.ones(1))


def test_fit_without_a_batch_is_refused(x: Tensor) -> None:
    with pytest.raises(AurepError, match="at least one batch"):
        aurep.fit_polynomials(aurep.prepare(Shared(False), x), [])


def test_fit_on_nan_names_the_site(x: Tensor) -> None:
    with pytest.raises(AurepError, match="site relu sees infinite or NaN"):
        aurep.fit_polynomials(aurep.prepare(Shared(False), x), [x * float("nan")])


@pytest.mark.parametrize("functional", [False, True])
def test_maxpool_avg_refuses_poolings_whose_indices_are_wanted(functional: bool, x: Tensor) -> None:
    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2, return_indices=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(x)
            y: Tensor = (F.max_pool2d_with_indices(x, 2) if functional else self.pool(x))[0]
            return y

    with pytest.raises(aurep.AurepError, match=r"indices.*maxpool='max'"):
        aurep.prepare(Indexed(), x, maxpool="avg")
