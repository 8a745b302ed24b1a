"""The saliency of single elements against what really happens to the loss when they are flipped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import aurep
from aurep import HybridActivation
from aurep.data import load_data
from aurep.search.scores import SaliencyScores
from aurep.surgery import fit_polynomials, hybrid_sites, normalise_polynomials


def digits() -> tuple[Tensor, Tensor]:
    data = load_data("digits")
    return torch.as_tensor(data.x_train[:256]).float() / 128 - 1, torch.as_tensor(data.y_train[:256])


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        part = torch.arange(step * 128, step * 128 + 128) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        for site in hybrid_sites(model):
            site.follow()


def half_replaced(degree: int, x: Tensor, y: Tensor) -> nn.Module:
    """A network that was trained as ReLUs, and again with every second of them, by chance, a polynomial."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    plain = nn.Sequential(*convolutions, nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10))
    train(plain, x, y, 100)
    student = aurep.prepare(plain, x[:1], degree=degree).train()
    fit_polynomials(student, [x])
    normalise_polynomials(student, [x])
    for site in hybrid_sites(student):
        site.set_mask(torch.rand(site.shape) < 0.5)
    train(student, x, y, 60)
    return student


def worth(student: nn.Module, site: HybridActivation, x: Tensor, y: Tensor) -> NDArray[np.float64]:
    """Per element, the loss with it replaced less the loss with it kept."""

    @torch.no_grad()
    def loss() -> float:
        return float(F.cross_entropy(student(x).double(), y))

    present, flat = loss(), site.mask.view(-1)
    found = []
    for element in range(len(flat)):
        flat[element] = ~flat[element]
        found.append(present - loss() if flat[element] else loss() - present)
        flat[element] = ~flat[element]
    return np.array(found)


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


@pytest.mark.parametrize("degree", [0, 2])
def test_flipping_single_elements_confirms_the_sign_of_either_state(degree: int) -> None:
    x, y = digits()
    student = half_replaced(degree, x, y)
    sites = hybrid_sites(student)
    scores = SaliencyScores(sites, decay=0.0)
    F.cross_entropy(student(x), y).backward()
    first = [-terms[0] for _, terms in sorted(scores._terms.items())]
    scores.update()
    scores.close()
    found = np.concatenate([value.flatten().numpy() for value in scores.values]).astype(np.float64)
    linear = np.concatenate([value.flatten().numpy() for value in first]).astype(np.float64)
    true = np.concatenate([worth(student, site, x, y) for site in sites])
    kept = np.concatenate([site.mask.flatten().numpy() for site in sites])
    for state in (kept, ~kept):
        right, wrong = found[state], (2 * linear - found)[state]  # the second-order term with the other sign
        assert rank_correlation(right, true[state]) > rank_correlation(wrong, true[state])
