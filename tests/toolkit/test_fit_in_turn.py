"""Polynomials are fitted one after the other, each on what those before it make of the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import aurep
from aurep.polynomial import Fit, Moments
from aurep.surgery import hybrid_sites


def test_a_later_site_is_fitted_on_the_outputs_of_earlier_polynomials() -> None:
    """Oracle: numpy's least squares of ReLU, on inputs computed by hand, site after site."""
    torch.manual_seed(0)
    first, second = nn.Linear(4, 3), nn.Linear(3, 2)
    model = aurep.prepare(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), torch.zeros(1, 4), degree=2)
    for site in hybrid_sites(model):
        site.set_mask(torch.zeros_like(site.mask))
    images = torch.randn(400, 4)
    aurep.fit_polynomials(model, [images])
    x = images
    for layer, site in zip((first, second), hybrid_sites(model), strict=True):
        seen = layer(x).detach().double().numpy()
        wanted = np.stack([np.polyfit(channel, channel.clip(0), 2)[::-1] for channel in seen.T])
        assert site.coefficients is not None
        np.testing.assert_allclose(site.coefficients.detach().numpy(), wanted, rtol=1e-4, atol=1e-5)  # fp32 in between
        x = torch.from_numpy(np.stack([np.polyval(c[::-1], v) for c, v in zip(wanted, seen.T, strict=True)], 1)).float()


CASES: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**31),
    "mean": st.floats(-3, 3),
    "std": st.floats(0.05, 20),
    "degree": st.sampled_from([1, 2]),
}


def fitted(method: Fit, seed: int, mean: float, std: float, degree: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fifty heavy-tailed inputs and the coefficients fitted to them, channel by channel."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_t(3, (50, 3)) * std + mean)
    moments = Moments((3,))
    moments.add(x)
    yield from zip(x.numpy().T, moments.fit(degree, method).numpy(), strict=True)


@given(**CASES)
@settings(deadline=None)
def test_a_bounded_fit_keeps_the_mean_and_enlarges_nothing_up_to_twice_what_it_saw(
    seed: int, mean: float, std: float, degree: int
) -> None:
    for channel, c in fitted("bounded", seed, mean, std, degree):
        grid = np.linspace(-2, 2, 101) * np.abs(channel).max()
        assert np.all(np.abs(np.polyval(c[::-1], grid) - c[0]) <= np.abs(grid) * (1 + 1e-9))  # float64
        np.testing.assert_allclose(np.polyval(c[::-1], channel).mean(), channel.clip(0).mean(), rtol=1e-7, atol=1e-9)


@given(**CASES)
@settings(deadline=None)
def test_a_damped_fit_has_less_curvature_than_least_squares_and_its_mean(
    seed: int, mean: float, std: float, degree: int
) -> None:
    """Oracle: numpy's least squares of ReLU."""
    for channel, c in fitted("damped", seed, mean, std, degree):
        wanted = np.polyfit(channel, channel.clip(0), degree)[::-1] * [1, 1, 0.7][: degree + 1]
        np.testing.assert_allclose(c[1:], wanted[1:], rtol=1e-5, atol=1e-7 / std)  # fp64, and the ridge of 1e-9
        np.testing.assert_allclose(np.polyval(c[::-1], channel).mean(), channel.clip(0).mean(), rtol=1e-7, atol=1e-9)


def test_a_deep_untrained_network_of_polynomials_is_exportable(tmp_path: Path) -> None:
    """Plain least squares leaves it infinite on images that it has not seen; a bounded fit does not."""
    torch.manual_seed(0)
    layers = [layer for _ in range(40) for layer in (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(16, 3)).train()
    images = torch.randn(1024, 16)
    with torch.no_grad():
        for _ in range(100):
            network(images)
    model = aurep.prepare(network.eval(), images[:1], degree=2)
    for site in hybrid_sites(model):
        site.set_mask(torch.zeros_like(site.mask))
    unseen = torch.randn(256, 16)
    aurep.fit_polynomials(model, [images])
    assert not torch.isfinite(model(unseen)).all()
    aurep.fit_polynomials(model, [images], method="bounded")
    assert torch.isfinite(model(unseen)).all()
    aurep.export(model, unseen[:1], tmp_path / "deep.onnx")
    assert aurep.count_relus(tmp_path / "deep.onnx").total == 0
