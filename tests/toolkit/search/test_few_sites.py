"""ReLUs at K sites at most: which sites, never more of them, never above the budget, by every method."""

from __future__ import annotations

import copy
import io
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import aurep
from aurep.search import POLICIES, choose_sites
from aurep.search.few_sites import best_sites
from aurep.surgery import hybrid_sites
from aurep.training.config import Config, parse_config
from tests.toolkit.search.searching import SIZES, TOTAL, Search, batches, network
from tests.toolkit.search.test_resume import OPTIONS, RECIPE
from tests.toolkit.training.stopping import stopped_at

METHODS = list(POLICIES)
CHOICES = [list(chosen) for k in range(4) for chosen in itertools.combinations(range(3), k)]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12, deadline=None)
@given(budget=st.integers(0, TOTAL), chosen=st.sampled_from(CHOICES), steps=st.integers(0, 6))
def test_relus_stay_at_the_chosen_sites_alone_and_within_the_budget(
    method: str, budget: int, chosen: list[int], steps: int
) -> None:
    search = Search(method, budget, chosen=chosen).run(stop=steps)
    search.policy.finish()
    kept = search.counts()
    assert all(count == 0 for site, count in enumerate(kept) if site not in chosen)
    capacity = sum(SIZES[site] for site in chosen)
    if method == "layerwise":
        assert sum(kept) <= budget
        assert all(count in (0, size) for count, size in zip(kept, SIZES, strict=True))
    else:
        assert sum(kept) == min(budget, capacity)
    assert search.hooks() == 0
    assert not any(site.blend for site in search.sites)


@pytest.mark.parametrize("method", METHODS)
def test_all_sites_are_no_limit(method: str) -> None:
    plain, all_chosen = Search(method, 25).run(), Search(method, 25, chosen=[0, 1, 2]).run()
    for search in (plain, all_chosen):
        search.policy.finish()
    expected = plain.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in all_chosen.student.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_state_carries_all_that_a_resume_needs(method: str) -> None:
    whole = Search(method, 25, epochs=4, chosen=[0, 2]).run(stop=5)
    stream = io.BytesIO()
    torch.save({"policy": whole.policy.state_dict(), "student": whole.student.state_dict()}, stream)
    optimizer = copy.deepcopy(whole.optimizer.state_dict())
    whole.run(start=5)
    stored = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    resumed = Search(method, 25, epochs=4, chosen=stored["policy"]["chosen"], start=False)
    resumed.student.load_state_dict(stored["student"])
    resumed.optimizer.load_state_dict(optimizer)
    resumed.policy.load_state_dict(stored["policy"])
    resumed.run(start=5)
    for search in (whole, resumed):
        search.policy.finish()
    expected = whole.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.student.state_dict().items())


def test_sensitivities_given_per_site_are_those_of_the_chosen() -> None:
    search = Search("senet", 28, options={"eta": [1.0, 0.25, 0.75]}, chosen=[1, 2]).run()
    search.policy.finish()
    assert search.counts() == [0, 18, 10]  # 28 by 1 to 3 would be 7 and 21, of which the last site holds 10


@settings(deadline=None)
@given(
    scores=st.lists(st.lists(st.integers(-5, 9).map(float), min_size=1, max_size=6), min_size=1, max_size=6),
    budget=st.integers(1, 12),
    data=st.data(),
)
def test_greedy_choice_reaches_its_bound(scores: list[list[float]], budget: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, len(scores)))

    def worth(sites: tuple[int, ...] | list[int]) -> float:
        return sum(sorted((max(s, 0.0) for k in sites for s in scores[k]), reverse=True)[:budget])

    chosen = best_sites([torch.tensor(values) for values in scores], budget, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == most
    best = max(worth(sites) for sites in itertools.combinations(range(len(scores)), most))
    assert worth(chosen) >= (1 - 1 / torch.e) * best
    if most == 1:
        assert worth(chosen) == best


def test_a_single_site_is_chosen_by_what_its_best_elements_are_worth() -> None:
    """Against the score written out, with gradients by autograd through the outputs of the plain network."""
    student = aurep.prepare(network(), torch.zeros(1, 1, 6, 6)).train()
    shown = list(batches(2))
    aurep.fit_polynomials(student, shown)
    sites, before = hybrid_sites(student), copy.deepcopy(student.state_dict())
    scores = [torch.zeros(site.shape) for site in sites]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [site.register_forward_hook(lambda _m, args, out: seen.append((args[0], out))) for site in sites]
    for x, y in shown:
        seen.clear()
        per_image = F.cross_entropy(student.eval()(x), y, reduction="none")
        for k, (inputs, outputs) in enumerate(seen):
            for image, loss in enumerate(per_image):
                (g,) = torch.autograd.grad(loss, outputs, retain_graph=True)
                d = inputs[image].relu() - sites[k].polynomial(inputs[image : image + 1])[0]
                scores[k] += (-g[image] * d + (g[image] * d) ** 2 / 2).detach() / 10
    for hook in hooks:
        hook.remove()
    for budget in (1, 5, 40):
        worth = [float(s.flatten().clamp_min(0).topk(min(budget, s.numel())).values.sum()) for s in scores]
        assert choose_sites(student.train(), sites, shown, budget, 1) == [worth.index(max(worth))]
    after = student.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert student.training
    assert not any(site._forward_hooks for site in sites)
    assert all(p.grad is None for p in student.parameters())


def test_nothing_is_measured_where_nothing_is_to_choose() -> None:
    student = aurep.prepare(network(), torch.zeros(1, 1, 6, 6))
    sites = hybrid_sites(student)
    assert choose_sites(student, sites, [], 30, 3) == [0, 1, 2]
    assert choose_sites(student, sites, [], 30, 0) == choose_sites(student, sites, [], 0, 2) == []
    with pytest.raises(aurep.AurepError, match="no batch of images"):
        choose_sites(student, sites, [], 30, 1)
    with pytest.raises(aurep.AurepError, match="cannot stay at -1 sites"):
        choose_sites(student, sites, [], 30, -1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    aurep.train(parse_config(RECIPE, "test", ["search.epochs=0"]), out)
    return out


def config(method: str, teacher: Path, *more: str) -> Config:
    options = f"search.options={{{OPTIONS.get(method, '')}}}"
    given = [f"baseline.checkpoint='{teacher}'", f"search.method={method}", options]
    return parse_config(RECIPE, "test", [*given, *more])


@pytest.mark.parametrize("method", ["autorep", "senet", "saliency"])
def test_resumed_search_ends_as_an_uninterrupted_one(method: str, teacher: Path, tmp_path: Path) -> None:
    whole = aurep.train(config(method, teacher, "search.max_sites=2"), tmp_path / "whole")
    assert whole.relu_sites <= 2
    assert whole.relu_count == 77
    assert (whole.max_sites, whole.relu_budget) == (2, 77)
    with stopped_at(("search", 1, 5)):
        aurep.train(config(method, teacher, "search.max_sites=2"), tmp_path / "run")
    aurep.train(config(method, teacher, "search.max_sites=2"), tmp_path / "run", resume=True)
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_as_many_sites_as_there_are_is_no_limit_bit_for_bit(teacher: Path, tmp_path: Path) -> None:
    for name, more in (("plain", []), ("eight", ["search.max_sites=8"]), ("more", ["search.max_sites=99"])):
        aurep.train(config("saliency", teacher, *more), tmp_path / name)
    plain = (tmp_path / "plain/model.safetensors").read_bytes()
    assert plain == (tmp_path / "eight/model.safetensors").read_bytes()
    assert plain == (tmp_path / "more/model.safetensors").read_bytes()


@pytest.mark.parametrize("sites", [0, 1])
def test_budget_beyond_what_the_sites_hold_is_not_used_up(sites: int, teacher: Path, tmp_path: Path) -> None:
    more = ["search.budget=900", f"search.max_sites={sites}", "search.epochs=1"]
    result = aurep.train(config("random", teacher, *more), tmp_path / "run")
    assert result.relu_sites == sites
    assert result.relu_count == 256 * sites  # the first layers' size: the fewer hold less of 900
    text = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert text[-1].split(",")[text[0].split(",").index("relu_sites")] == str(sites)


def test_sites_by_name(teacher: Path, tmp_path: Path) -> None:
    named = 'search.sites=["layer2.0.relu1", "layer1.0.relu2"]'
    result = aurep.train(config("saliency", teacher, named, "search.epochs=1"), tmp_path / "run")
    assert [site.name for site in result.sites if site.kept] == ["layer1.0.relu2", "layer2.0.relu1"]
    assert (result.relu_count, result.max_sites) == (77, 2)
    with pytest.raises(aurep.AurepError, match=r"search\.sites: the model has no site 'nowhere'; its sites are layer1"):
        aurep.train(config("saliency", teacher, 'search.sites=["nowhere"]'), tmp_path / "none")
    with pytest.raises(aurep.AurepError, match="give one of them"):
        config("saliency", teacher, named, "search.max_sites=2")
