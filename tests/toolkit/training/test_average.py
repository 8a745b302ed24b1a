"""The running average of weights: its recurrence, what an epoch is judged by, its place in a run."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from aurep.activation import HybridActivation
from aurep.surgery import measure_statistics
from aurep.training import train
from aurep.training.average import Average
from aurep.training.outcome import Outcome
from tests.tolerances import FLOAT32
from tests.toolkit.training.tiny import tiny_config

_UNBIASED = 1 / 256  # evaluation takes the variance over n - 1 of 256 values, training over n


def test_recurrence() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average, wanted = Average(model, 0.5), [p.detach().clone() for p in model.parameters()]
    for step in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = [decay * a + (1 - decay) * p.detach() for a, p in zip(wanted, model.parameters(), strict=True)]
    average.take()
    for parameter, expected in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=FLOAT32, atol=FLOAT32)


def test_an_epoch_is_judged_by_average_weights_with_statistics_of_their_own() -> None:
    """And the next one goes on from its own weights and statistics, to the bit."""
    torch.manual_seed(0)
    site = HybridActivation((3, 4, 4), degree=2)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), site)
    site.normalise(torch.rand(4, 3) + 0.5)
    site.set_mask(torch.zeros(3, 4, 4))
    x = torch.randn(16, 3, 4, 4)
    outcome = Outcome(model, 0.5, choose_best=False, measure=lambda network: measure_statistics(network, [x]))
    for _ in range(6):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != "2.alpha":
                    parameter.copy_(torch.randn_like(parameter))
        model(x)
        site.follow()
        outcome.follow()
    own = copy.deepcopy(model.state_dict())
    with outcome.judged():
        assert not torch.equal(model[0].weight, own["0.weight"])
        trained = model.train()(x)
        torch.testing.assert_close(model.eval()(x), trained, rtol=_UNBIASED, atol=_UNBIASED)
        counts = copy.deepcopy(model.state_dict())
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    outcome.settle()
    for name, tensor in model.state_dict().items():
        if name != "1.num_batches_tracked":  # it has been looked at once more
            torch.testing.assert_close(tensor, counts[name], rtol=FLOAT32, atol=FLOAT32)


def test_a_run_ends_with_the_average_of_its_last_steps(tmp_path: Path) -> None:
    common = {"baseline__epochs": 1, "search__epochs": 0, "finetune__epochs": 1, "data__val_fraction": 0.0}
    last = train(tiny_config(**common), tmp_path / "last")
    averaged = train(tiny_config(**common, finetune__ema=0.9, baseline__ema=0.9), tmp_path / "averaged")
    again = train(tiny_config(**common, finetune__ema=0.9, baseline__ema=0.9), tmp_path / "again")
    weights = [load_file(result.run_dir / "model.safetensors") for result in (last, averaged, again)]
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])
    assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"])
