"""Saliency scores against their definition, written out image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aurep.search.saliency import Saliency, equalised
from tests.tolerances import FLOAT32
from tests.toolkit.search.searching import BATCH, TOTAL, Search, batches


def definition(search: Search, x: Tensor, y: Tensor) -> list[np.ndarray]:
    """E_n[-g_n d_n +- 1/2 g_n^2 d_n^2] per element, + where kept, a backward pass for each image's own loss."""
    sums = [np.zeros(site.shape) for site in search.sites]
    for image, label in zip(x, y, strict=True):
        seen: list[tuple[Tensor, Tensor]] = []
        hooks = [
            site.register_forward_hook(lambda _, args, out, seen=seen: seen.append((args[0], out)))
            for site in search.sites
        ]
        loss = F.cross_entropy(search.student(image[None]), label[None])
        gradients = torch.autograd.grad(loss, [out for _, out in seen])
        for hook in hooks:
            hook.remove()
        for total, site, (z, _), g in zip(sums, search.sites, seen, gradients, strict=True):
            z0, g0 = z[0].detach().double().numpy(), g[0].double().numpy()
            d = np.maximum(z0, 0) - fallback(site, z0)
            total += -g0 * d + np.where(site.mask, 0.5, -0.5) * (g0 * d) ** 2
    return [total / len(x) for total in sums]


def fallback(site: torch.nn.Module, z: np.ndarray) -> np.ndarray:
    if site.coefficients is None:
        return z
    c = site.coefficients.detach().double().numpy()
    c = c[:, None, None, :] if z.ndim == 3 else c
    return sum((c[..., k] * z**k for k in range(c.shape[-1])), np.zeros_like(z))


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 1024.0], ids=["fp32", "scaled-loss"])
@pytest.mark.parametrize("replaced", [False, True])
def test_scores_are_the_definition(degree: int, scale: float, replaced: bool) -> None:
    search = Search("saliency", 20, degree, {"decay": 0.0})
    policy = search.policy
    assert isinstance(policy, Saliency)
    if replaced:
        for site in search.sites:
            site.mask.view(-1)[::2] = False
    (x, y) = next(batches(1))
    (search.loss(x, y) * scale).backward()
    policy.scores.update()
    found = [value.numpy() for value in policy.scores.values]
    policy.scores.close()
    for value, expected in zip(found, definition(search, x, y), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=FLOAT32)
    assert len(x) == BATCH


def test_scores_are_a_running_average() -> None:
    fresh, averaged = (Search("saliency", TOTAL, 2, {"decay": decay}).policy for decay in (0.0, 0.75))
    expected = None
    for _ in range(3):
        for policy in (fresh, averaged):
            assert isinstance(policy, Saliency)
            draw = torch.Generator().manual_seed(1)
            policy.scores._terms = {0: (torch.randn(3, 6, 6, generator=draw), torch.rand(3, 6, 6, generator=draw))}
            policy.scores.update()
        old = 0 if expected is None else expected
        expected = 0.75 * old + 0.25 * fresh.scores.values[0]
    torch.testing.assert_close(averaged.scores.values[0], expected)


def test_overflowed_gradients_leave_the_scores_alone() -> None:
    policy = Search("saliency", 20).policy
    assert isinstance(policy, Saliency)
    policy.scores._terms = {2: (torch.full((10,), torch.inf), torch.full((10,), torch.inf))}
    policy.scores.update()
    assert torch.equal(policy.scores.values[2], torch.zeros(10))


@pytest.mark.parametrize("restore", [True, False])
def test_element_whose_score_recovers_comes_back(restore: bool) -> None:
    search = Search("saliency", 10, options={"restore": restore})
    policy = search.policy
    assert isinstance(policy, Saliency)
    policy.scores.values = [torch.arange(site.mask.numel()).view(site.shape).float() for site in search.sites]
    policy.after_step(1.0)
    policy.scores.values[2].fill_(1000.0)
    policy.after_step(1.0)
    assert search.counts() == ([0, 0, 10] if restore else [10, 0, 0])


def test_layer_weight_evens_out_the_mean() -> None:
    score = torch.tensor([1.0, -2.0, 6.0])
    torch.testing.assert_close(equalised(score, 1.0), score / 3)
    torch.testing.assert_close(equalised(score, 0.5), score / 3**0.5)
    assert torch.equal(equalised(score, 0.0), score)
    assert torch.equal(equalised(torch.zeros(3), 1.0), torch.zeros(3))
