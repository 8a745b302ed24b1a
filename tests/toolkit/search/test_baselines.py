"""Random, uniform and layerwise selection."""

from __future__ import annotations

import pytest
import torch

from aurep.search.baselines import Layerwise
from tests.toolkit.search.searching import SIZES, TOTAL, Search


def test_random_keeps_another_set_for_another_seed_and_the_same_for_the_same() -> None:
    first, again, other = (Search("random", 40) for _ in range(3))
    other.policy.__init__(other.sites, 40, other.policy.options, 8, steps=6)
    for search in (first, again, other):
        search.policy.finish()
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(first.sites, again.sites, strict=True))
    assert not all(torch.equal(a.mask, b.mask) for a, b in zip(first.sites, other.sites, strict=True))


def test_kept_elements_only_ever_leave() -> None:
    search = Search("random", 10, epochs=4)
    before = [site.mask.clone() for site in search.sites]

    def look() -> None:
        for site, mask in zip(search.sites, before, strict=True):
            assert not (site.mask & ~mask).any()
            mask.copy_(site.mask)

    search.run(look=look)


@pytest.mark.parametrize("budget", [0, 1, 7, 50, TOTAL // 2, TOTAL])
def test_uniform_gives_every_layer_the_same_share(budget: int) -> None:
    search = Search("uniform", budget)
    search.policy.finish()
    for count, size in zip(search.counts(), SIZES, strict=True):
        assert abs(count - budget * size / TOTAL) < 1


@pytest.mark.parametrize(
    ("keep", "budget", "counts"),
    [
        ("late", 9, [0, 0, 0]),
        ("late", 45, [0, 0, 10]),
        ("late", 46, [0, 36, 10]),
        ("late", 118, [0, 36, 10]),
        ("early", 118, [108, 0, 10]),
        ("early", 107, [0, 36, 10]),
        ("early", TOTAL, SIZES),
    ],
)
def test_layerwise_keeps_whole_layers_in_order(keep: str, budget: int, counts: list[int]) -> None:
    search = Search("layerwise", budget, options={"keep": keep}).run()
    search.policy.finish()
    assert search.counts() == counts


def test_layerwise_keeps_the_layers_of_highest_mean_score_first() -> None:
    search = Search("layerwise", 118)
    policy = search.policy
    assert isinstance(policy, Layerwise)
    assert policy.scores is not None
    for value, mean in zip(policy.scores.values, (1.0, 3.0, 2.0), strict=True):
        value.fill_(mean)
    policy.finish()
    assert policy.order == [1, 2, 0]
    assert search.counts() == [0, 36, 10]
    assert search.hooks() == 0
