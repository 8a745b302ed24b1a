"""Loss terms against their formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import aurep
from aurep.surgery import hybrid_sites, tap_activations
from aurep.training.config import FinetuneConfig
from aurep.training.losses import (
    Pram,
    RangePenalty,
    attention_map,
    distillation,
    stage_outputs,
    student_terms,
)
from tests.tolerances import FLOAT32
from tests.toolkit.search.searching import Search, network


def test_distillation_is_the_divergence_of_softened_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, generator=draw).double().unbind()
    p, q = (np.exp(z.numpy() / 3) / np.exp(z.numpy() / 3).sum(1, keepdims=True) for z in (teacher, student))
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert float(distillation(student, teacher, 3.0)) == pytest.approx(expected, rel=1e-5)


def naive_map(activation: Tensor) -> np.ndarray:
    squares = (activation.detach().double().numpy() ** 2).mean(1).reshape(len(activation), -1)
    return squares / np.sqrt((squares**2).sum(1, keepdims=True))


def test_attention_map_is_the_unit_vector_of_channel_mean_squares() -> None:
    activation = torch.randn(3, 5, 4, 6)
    np.testing.assert_allclose(attention_map(activation).numpy(), naive_map(activation), rtol=FLOAT32)
    assert not attention_map(torch.zeros(2, 3, 4, 4)).any()


def test_stage_outputs_are_the_last_sites_of_their_resolution() -> None:
    resnet = [(8, 32, 32)] * 5 + [(16, 16, 16)] * 4 + [(32, 8, 8)] * 4 + [(64, 4, 4)] * 4
    assert stage_outputs(resnet) == [4, 8, 12, 16]
    assert stage_outputs([(8, 4, 4), (10,), (16, 2, 2), (10,)]) == [0, 2]
    assert stage_outputs([(10,)]) == []


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    student = aurep.prepare(network(seed=1), torch.zeros(1, 1, 6, 6), degree=2).train()
    for site in hybrid_sites(student):
        site.mask.view(-1)[::3] = False
    return student, *tap_activations(network(seed=2).eval().requires_grad_(False), ("relu",), [])


def test_pram_compares_the_maps_of_student_and_teacher(pair: tuple[nn.Module, nn.Module, list[nn.Module]]) -> None:
    student, teacher, taps = pair
    sites, x = hybrid_sites(student), torch.randn(5, 1, 6, 6)
    outputs: list[Tensor] = []
    for module in (sites[0], sites[1], taps[0], taps[1]):
        module.register_forward_hook(lambda _m, _i, y: outputs.append(y))
    pram = Pram(sites, taps, 10.0)
    student(x), teacher(x)
    value = pram()
    distances = [(naive_map(outputs[k]) - naive_map(outputs[2 + k])) ** 2 for k in (0, 1)]
    assert float(value.detach()) == pytest.approx(10 * sum(d.mean() for d in distances), rel=1e-4)
    value.backward()
    assert all(student.get_submodule(name).weight.grad is not None for name in ("0", "2"))
    pram.close()
    assert sum(len(m._forward_hooks) for m in [*sites, *taps]) == 4  # this test's own


def test_pram_of_equal_networks_is_zero_and_validation_leaves_nothing() -> None:
    student = aurep.prepare(network(), torch.zeros(1, 1, 6, 6)).train()
    teacher, taps = tap_activations(network().eval(), ("relu",), [])
    pram = Pram(hybrid_sites(student), taps, 1.0)
    x = torch.randn(5, 1, 6, 6)
    student(x), teacher(x)
    student.eval()
    student(torch.randn(7, 1, 6, 6))
    assert float(pram().detach()) == 0.0


def test_range_penalty_is_the_logarithm_of_the_squared_excess_over_the_limit_in_deviations(
    pair: tuple[nn.Module, nn.Module, list[nn.Module]],
) -> None:
    student = pair[0]
    sites = hybrid_sites(student)
    seen: list[Tensor] = []
    for site in sites:
        site.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    penalty = RangePenalty(sites, 0.5, 1.5)
    student(torch.randn(5, 1, 6, 6))
    expected = 0.0
    for x in seen:
        values = x.detach().double().numpy()[:2]  # a quarter of five images, rounded up
        others = (0, *range(2, values.ndim))
        z = (values - values.mean(others, keepdims=True)) / np.sqrt(values.var(others, keepdims=True) + 1e-5)
        expected += 0.5 * np.log(1 + (np.maximum(np.abs(z) - 1.5, 0) ** 2).sum() / len(values))
    value = penalty()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)  # fp32 sums of some hundred terms
    value.backward()
    student.eval()
    student(torch.randn(5, 1, 6, 6))
    assert all(site._excess is None for site in sites)
    penalty.close()


def test_range_penalty_pulls_outliers_in_and_leaves_the_rest_alone() -> None:
    site = aurep.HybridActivation((2, 8, 8))
    penalty = RangePenalty([site], 1.0, 4.0)
    x = torch.randn(16, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x[3, 1, 2, 2], x[1, 0, 1, 1] = 40.0, -30.0
    x.requires_grad_()
    site.train()(x)
    penalty().backward()
    assert x.grad is not None
    assert x.grad[3, 1, 2, 2] > 0
    assert x.grad[1, 0, 1, 1] < 0
    assert int(x.grad.count_nonzero()) == 2


def test_terms_without_a_weight_cost_nothing() -> None:
    search = Search("random", 10)
    assert student_terms(FinetuneConfig(range_weight=0), search.sites, []) == []
    assert search.hooks() == 0
    both = student_terms(FinetuneConfig(range_weight=1, pram_weight=1), search.sites, list(search.sites))
    assert [type(term) for term in both] == [Pram, RangePenalty]


def test_pram_without_a_map_to_compare_is_refused() -> None:
    student = aurep.prepare(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(1, 3))
    with pytest.raises(aurep.AurepError, match="pram_weight"):
        Pram(hybrid_sites(student), [], 1.0)
