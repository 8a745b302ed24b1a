"""SENet: the layer budgets' law, the sensitivities, the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import aurep
from aurep.search.senet import Senet
from aurep.search.sensitivity import layer_weights, magnitude_sensitivities
from aurep.search.shares import water_fill
from aurep.surgery import tap_activations
from tests.toolkit.search.searching import SIZES, Search, batches, network

# ResNet-18 for 32x32 with the stem's ReLU: capacities, and the published sensitivities.
CAPACITIES = [65536] * 5 + [32768] * 4 + [16384] * 4 + [8192] * 4
ETA = [0.0572, 0.1854, 0.2129, 0.2506, 0.2758, 0.3549, 0.4884, 0.5102, 0.5568]
ETA += [0.6739, 0.8143, 0.8277, 0.8623, 0.9410, 0.9902, 0.9986, 1.0]


def by_bisection(capacities: list[int], weights: list[float], budget: int) -> np.ndarray:
    """min(c, k w) with k found by halving, independent of the order in which layers fill up."""
    c, w = np.array(capacities, float), np.array(weights)
    low, high = 0.0, float((c / w).max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(c, middle * w).sum() < budget else (low, middle)
    return np.minimum(c, high * w)


@pytest.mark.parametrize("budget", [100_000, 120_000, 150_000])
def test_published_sensitivities_give_the_published_law(budget: int) -> None:
    shares = water_fill(CAPACITIES, ETA, budget)
    assert sum(shares) == budget
    assert np.abs(np.array(shares) - by_bisection(CAPACITIES, ETA, budget)).max() < 1
    k = max(share / eta for share, eta in zip(shares, ETA, strict=True) if share)  # of a layer that is not full
    full = [share == capacity for share, capacity in zip(shares, CAPACITIES, strict=True)]
    assert full == [k * eta >= capacity - 1 for eta, capacity in zip(ETA, CAPACITIES, strict=True)]


layers = st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 5)), min_size=1, max_size=7)


@settings(max_examples=200, deadline=None)
@given(layers, st.floats(0, 1))
def test_water_filling_by_brute_force(layers: list[tuple[int, float]], share: float) -> None:
    capacities, weights = [c for c, _ in layers], [w for _, w in layers]
    budget = round(share * sum(capacities))
    found = water_fill(capacities, weights, budget)
    exact = by_bisection(capacities, weights, budget)
    assert sum(found) == budget
    assert all(0 <= r <= c for r, c in zip(found, capacities, strict=True))
    assert np.abs(np.array(found) - exact).max() < 1 + 1e-6


def test_layers_of_weight_zero_fill_last() -> None:
    assert water_fill([10, 10, 10], [0.0, 1.0, 0.0], 8) == [0, 8, 0]
    assert water_fill([10, 10, 10], [0.0, 1.0, 0.0], 16) == [3, 10, 3]
    assert water_fill([4, 4], [0.0, 0.0], 5) == [3, 2]


@pytest.mark.parametrize(
    ("weights", "budget", "message"), [([1, -1], 3, "not all >= 0"), ([1, 1], 21, "outside 0 to 20")]
)
def test_impossible_shares_are_refused(weights: list[float], budget: int, message: str) -> None:
    with pytest.raises(aurep.AurepError, match=message):
        water_fill([10, 10], weights, budget)


def test_sensitivity_is_one_minus_the_density_after_global_pruning() -> None:
    first = {"a.weight": torch.tensor([5.0, -6.0, 0.1, 0.2])}
    second = {"b.weight": torch.tensor([[-7.0, 0.3]]), "c.weight": torch.tensor([0.4, 0.5])}
    assert magnitude_sensitivities([first, second], 3 / 8) == [0.5, 0.75]


def pruned_file(tmp_path: Path, densities: dict[str, float]) -> str:
    """The teacher's weights, of which the given share stays; biases are left alone."""
    state = network().state_dict()
    for name, density in densities.items():
        weight = state[name].flatten()
        weight[round(density * len(weight)) :] = 0.0
        state[name] = weight.view(state[name].shape)
    save_file(state, tmp_path / "pruned.safetensors")
    return str(tmp_path / "pruned.safetensors")


def test_a_pruned_network_of_the_users_gives_the_sensitivities(tmp_path: Path) -> None:
    path = pruned_file(tmp_path, {"0.weight": 2 / 3, "2.weight": 0.25, "5.weight": 0.1})
    search = Search("senet", 40, 0, {"pruned": path})
    assert search.counts() == water_fill(SIZES, [1 / 3, 0.75, 0.9], 40)
    assert search.counts() != Search("senet", 40, 0).counts()


UNFIT = {
    "no such file": ({}, {"pruned": "nowhere.safetensors"}, "nowhere.safetensors does not exist"),
    "not pruned": ({}, {}, "holds no zero weights"),
    "two sources": ({"0.weight": 0.5}, {"eta": [1, 1, 1]}, "give one of them"),
}


@pytest.mark.parametrize(("densities", "options", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_unfit_sensitivities_are_refused(
    densities: dict[str, float], options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = pruned_file(tmp_path, densities)
    with pytest.raises(aurep.AurepError, match=message):
        Search("senet", 40, 0, {"pruned": path, **options})


def test_pruned_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(aurep.AurepError, match="not a readable safetensors"):
        Search("senet", 40, 0, {"pruned": str(tmp_path / "junk.safetensors")})
    save_file({"0.weight": torch.zeros(3, 1, 2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(aurep.AurepError, match=r"0\.weight is \(3, 1, 2, 2\).*\(3, 1, 3, 3\) in the teacher"):
        Search("senet", 40, 0, {"pruned": str(tmp_path / "other.safetensors")})


def test_layer_weights_are_those_that_run_before_each_activation() -> None:
    model = network()
    tapped, taps = tap_activations(model, ("relu",), ["1", "3", "6"])
    groups = layer_weights(tapped, taps)
    assert [[*group] for group in groups] == [["0.weight"], ["2.weight"], ["5.weight"]]
    assert [w.data_ptr() for group in groups for w in group.values()] == [model[k].weight.data_ptr() for k in (0, 2, 5)]


def test_activation_without_weights_needs_an_eta() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU())
    with pytest.raises(aurep.AurepError, match=r"before activation 1.*search\.options\.eta"):
        layer_weights(*tap_activations(model, ("relu",), ["1", "2"]))


def test_tapped_network_computes_the_same_and_its_taps_see_every_activation() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.act(x - 1) - self.act(x + 1)) + x.relu()

    model, seen = Odd(), []
    x = torch.randn(4, 3)
    tapped, taps = tap_activations(model, ("relu",), [])
    for tap in taps:
        tap.register_forward_hook(lambda _m, _i, y: seen.append(y))
    assert torch.equal(tapped(x.clone()), model(x.clone()))
    inner = (x - 1).relu(), (x + 1).relu()
    for found, expected in zip(seen, [*inner, (inner[0] - inner[1]).relu(), x.relu()], strict=True):
        assert torch.equal(found, expected)


def test_untraceable_network_is_tapped_by_its_modules() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(x) if x.sum() > 0 else self.act(-x)

    model = Branching()
    assert tap_activations(model, ("relu",), ["act"]) == (model, [model.act])


def test_layers_keep_their_budgets_from_the_start() -> None:
    eta = [0.1, 0.6, 1.0]
    search = Search("senet", 40, 0, {"eta": eta})
    expected = water_fill(SIZES, eta, 40)
    assert search.counts() == expected
    search.run(look=lambda: None)
    assert search.counts() == expected


def test_an_update_keeps_the_elements_that_differ_most_from_the_teacher() -> None:
    search = Search("senet", 40, 0, {"stop_distance": 0.0, "eta": [0.5, 0.8, 0.3], "part_steps": 3})
    sums = [np.zeros(site.shape) for site in search.sites]
    outputs: list[torch.Tensor] = []
    for site in search.sites:
        site.register_forward_hook(lambda _m, _i, y: outputs.append(y.detach().double()))
    for module in search.teacher.modules():
        if isinstance(module, nn.Identity):
            module.register_forward_hook(lambda _m, _i, y: outputs.append(y.double()))
    for step, (x, y) in enumerate(batches(3), 1):
        outputs.clear()
        search.optimizer.zero_grad()
        search.loss(x, y).backward()
        search.optimizer.step()
        for k in range(3):
            sums[k] += (outputs[3 + k] - outputs[k]).abs().sum(0).numpy()
        search.policy.after_step(step / 6)
    for site, total in zip(search.sites, sums, strict=True):
        kept = site.mask.numpy()
        assert total[kept].min() > total[~kept].max()


def test_masks_freeze_once_they_hardly_change() -> None:
    search = Search("senet", 40, 0, {"stop_distance": 1.0, "part_steps": 3}, epochs=3)
    policy = search.policy
    assert isinstance(policy, Senet)
    search.run(stop=3)
    assert policy.frozen
    assert search.hooks() == 0
    masks = [site.mask.clone() for site in search.sites]
    search.run(start=3)
    assert all(torch.equal(site.mask, mask) for site, mask in zip(search.sites, masks, strict=True))


@pytest.mark.parametrize(("epochs", "steps", "expected"), [(150, 352, 150), (2, 156, 15), (1, 7, 1)])
def test_updates_are_those_published_or_as_many_as_a_short_search_feeds(epochs: int, steps: int, expected: int) -> None:
    search = Search("senet", 40, 0, {"stop_distance": 0.0}, epochs=epochs, steps=steps)
    policy = search.policy
    assert isinstance(policy, Senet)
    updates = 0
    for step in range(1, epochs * steps + 1):
        policy.differences[0].fill_(1.0)
        policy.after_step(step / (epochs * steps))
        updates += not policy.differences[0].any()
        policy.frozen = False  # nothing changed
    assert updates == expected
