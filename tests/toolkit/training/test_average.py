"""The running average of weights: its recurrence, its place in a run, a resume."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from aurep.activation import HybridActivation
from aurep.training import train
from aurep.training.average import Average
from tests.tolerances import FLOAT32
from tests.toolkit.training.tiny import tiny_config


def test_recurrence_and_swap() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average, wanted = Average(model, 0.5), copy.deepcopy(model.state_dict())
    for step in range(8):
        for tensor in model.state_dict().values():
            tensor.add_(1)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                wanted[name] = decay * wanted[name] + (1 - decay) * tensor
    live = copy.deepcopy(model.state_dict())
    with average.applied():
        for name, tensor in model.state_dict().items():
            expected = wanted[name] if tensor.is_floating_point() else live[name]
            torch.testing.assert_close(tensor, expected, rtol=FLOAT32, atol=FLOAT32)
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())


def test_polynomials_are_made_of_averaged_factors_and_statistics() -> None:
    """The average of their coefficients is another polynomial."""
    torch.manual_seed(0)
    site = HybridActivation((3, 2, 2), degree=2)
    site.normalise(torch.rand(4, 3) + 0.5)
    average = Average(nn.Sequential(site), 0.5)
    assert site.factors is not None
    assert site.statistics is not None
    assert site.coefficients is not None
    own, moved = site.coefficients.clone(), []
    for _ in range(6):
        with torch.no_grad():
            site.factors.copy_(torch.randn_like(site.factors))
            site.statistics.copy_(torch.rand_like(site.statistics) + 0.5)
        site.follow()
        moved.append(site.coefficients.clone())
        average.update()
    with average.applied():
        m1, v1, m2, v2 = site.statistics
        f0, f1, f2 = site.factors.unbind(-1)
        c1, c2 = f1 / (v1 + 1e-5).sqrt(), f2 / (v2 + 1e-5).sqrt()  # as aurep.powers has it
        expected = torch.stack([f0 - c1 * m1 - c2 * m2, c1, c2], -1)
        torch.testing.assert_close(site.coefficients, expected, rtol=FLOAT32, atol=FLOAT32)
        for step, coefficients in enumerate(moved):
            decay = min(0.5, (1 + step) / (10 + step))
            own = decay * own + (1 - decay) * coefficients
        assert (own - expected).abs().max() > 0.01  # thousands of times what fp32 rounds: two polynomials
    assert torch.equal(site.coefficients, moved[-1])


def test_a_run_ends_with_the_average_of_its_last_steps(tmp_path: Path) -> None:
    common = {"baseline__epochs": 1, "search__epochs": 0, "finetune__epochs": 1, "data__val_fraction": 0.0}
    last = train(tiny_config(**common), tmp_path / "last")
    averaged = train(tiny_config(**common, finetune__ema=0.9, baseline__ema=0.9), tmp_path / "averaged")
    again = train(tiny_config(**common, finetune__ema=0.9, baseline__ema=0.9), tmp_path / "again")
    weights = [load_file(result.run_dir / "model.safetensors") for result in (last, averaged, again)]
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])
    assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"])
