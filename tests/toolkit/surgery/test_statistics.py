"""Statistics measured anew: those of batch norms and polynomials, against medians over the batches."""

from __future__ import annotations

import torch
from torch import nn

from aurep.activation import HybridActivation
from aurep.models import build_model
from aurep.surgery import (
    add_narrower,
    fit_polynomials,
    hybrid_sites,
    measure_statistics,
    normalise_polynomials,
    prepare,
)
from tests.tolerances import FLOAT32


def _network() -> tuple[nn.Sequential, HybridActivation]:
    site = HybridActivation((3, 4, 4), degree=2)
    site.normalise(torch.rand(4, 3) + 0.5)
    site.set_mask(torch.zeros(3, 4, 4))
    return nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5), site), site


def test_medians_over_the_batches() -> None:
    torch.manual_seed(0)
    model, site = _network()
    batches = [torch.randn(8, 3, 4, 4) * scale + scale for scale in (1.0, 2.0, 5e8)]
    measure_statistics(model.train(), batches)
    norm = model[0]
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).median(0).values
    variances = torch.stack([x.var((0, 2, 3)) for x in batches]).median(0).values
    torch.testing.assert_close(norm.running_mean, means, rtol=FLOAT32, atol=FLOAT32)
    torch.testing.assert_close(norm.running_var, variances, rtol=FLOAT32, atol=FLOAT32)
    found = []
    for x in batches:  # what the batch norm hands on, no dropout
        deviation = x.var((0, 2, 3), unbiased=False, keepdim=True).add(norm.eps).sqrt()
        u = ((x - x.mean((0, 2, 3), keepdim=True)) / deviation).transpose(0, 1).flatten(1)
        found.append(torch.stack([u.mean(1), u.var(1, False), u.square().mean(1), u.square().var(1, False)]))
    medians = torch.stack(found).median(0).values
    torch.testing.assert_close(site.statistics, medians, rtol=1e-4, atol=1e-4)  # fourth powers in fp32
    assert norm.momentum == 0.3
    assert all(module.training for module in model.modules())


def test_evaluation_becomes_what_training_was() -> None:
    """On the one batch measured, with a ResNet-20 that statistics of other images would not do for."""
    torch.manual_seed(0)
    model = prepare(build_model("resnet20", num_classes=10, width=4), torch.zeros(1, 3, 32, 32), degree=2)
    x = torch.randn(32, 3, 32, 32)
    fit_polynomials(model, [x])
    normalise_polynomials(model, [x])
    for site in hybrid_sites(model):
        site.set_mask(torch.zeros(site.shape))
    trained = model.train()(x)
    assert not torch.allclose(model.eval()(x), trained, rtol=0.5)
    measure_statistics(model, [x, x, x, x], max_batches=2)
    torch.testing.assert_close(model.eval()(x), trained, rtol=0.05, atol=0.05)  # variances over n - 1 at 32 x 8 x 8


def test_narrower_networks_are_measured_along() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 32, 32)
    model = prepare(build_model("resnet9", num_classes=10, width=4), x[:1], degree=2)
    (narrow,) = add_narrower(model, x[:1], [1.0, 0.5])
    measure_statistics(model.eval(), [x])
    for network in (model, narrow):
        found = network.train()(x)
        torch.testing.assert_close(network.eval()(x), found, rtol=0.05, atol=0.05)  # as above
