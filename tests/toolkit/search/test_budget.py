"""Every method, at every budget and degree: the count is the budget, and nothing of the search stays behind."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aurep
from aurep.search import POLICIES, check_options, policy_class
from aurep.surgery import hybrid_sites
from aurep.training.config import parse_config
from tests.toolkit.search.searching import SIZES, TOTAL, Search, network

METHODS = list(POLICIES)
DIGITS_TOTAL = 960  # ResNet-9 of width 4 on 8x8
LAYERS = [256, 256, 128, 128, 64, 64, 32, 32]  # its sites
BUDGETS = [0, 1, 7, DIGITS_TOTAL // 2, DIGITS_TOTAL]
RECIPE = """
model = {name = "resnet9", width = 4}
data = {name = "digits", pad = 0, flip = false}
train = {batch_size = 128, device = "cpu"}
baseline = {epochs = 1}
search = {epochs = 1, calibration = 128}
finetune = {epochs = 1}
"""


def assert_met(method: str, kept: list[int], budget: int, sizes: list[int]) -> None:
    if method != "layerwise":
        assert sum(kept) == budget
        return
    assert all(count in (0, size) for count, size in zip(kept, sizes, strict=True))
    assert sum(kept) <= budget
    dropped = [size for count, size in zip(kept, sizes, strict=True) if count == 0]
    assert all(sum(kept) + size > budget for size in dropped), "another layer would fit"


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=12, deadline=None)
@given(budget=st.sampled_from([0, 1, 7, TOTAL // 2, TOTAL]) | st.integers(0, TOTAL), degree=st.sampled_from([0, 1, 2]))
def test_count_is_the_budget(method: str, budget: int, degree: int) -> None:
    search = Search(method, budget, degree).run()
    search.policy.finish()
    assert_met(method, search.counts(), budget, SIZES)
    assert search.hooks() == 0
    assert not any(site.blend for site in search.sites)


@pytest.mark.parametrize("method", METHODS)
def test_budget_is_met_without_a_single_step(method: str) -> None:
    search = Search(method, 30)
    search.policy.finish()
    assert_met(method, search.counts(), 30, SIZES)
    assert search.hooks() == 0


@pytest.mark.parametrize("method", ["saliency", "random", "uniform"])
def test_cubic_schedule_is_exact_at_every_step(method: str) -> None:
    seen: list[int] = []
    search = Search(method, 20, epochs=4)
    search.run(look=lambda: seen.append(sum(search.counts())))
    shares = [max(0.0, 1 - (step + 1) / 12 / 0.8) ** 3 for step in range(12)]
    assert seen == [20 + round((TOTAL - 20) * share) for share in shares]


@pytest.mark.parametrize("method", METHODS)
def test_making_a_policy_changes_nothing(method: str) -> None:
    student = aurep.prepare(network(), torch.zeros(1, 1, 6, 6))
    before = copy.deepcopy(student.state_dict())
    policy_class(method)(hybrid_sites(student), 25, check_options(method, {}), 7, steps=6)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert not any(site.blend or site._forward_hooks or site._forward_pre_hooks for site in hybrid_sites(student))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [2, 3, 7])
def test_state_carries_all_that_a_resume_needs(method: str, stop: int) -> None:
    """Through torch.save, as a checkpoint does."""
    options = {"part_steps": 1} if method == "senet" else {}
    whole = Search(method, 25, options=options, epochs=4).run(stop=stop)
    stream = io.BytesIO()
    torch.save({"policy": whole.policy.state_dict(), "student": whole.student.state_dict()}, stream)
    optimizer = copy.deepcopy(whole.optimizer.state_dict())
    whole.run(start=stop)
    stored: dict[str, Any] = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    resumed = Search(method, 25, options=options, epochs=4, start=False)
    resumed.student.load_state_dict(stored["student"])
    resumed.optimizer.load_state_dict(optimizer)
    resumed.policy.load_state_dict(stored["policy"])
    resumed.run(start=stop)
    for search in (whole, resumed):
        search.policy.finish()
    expected = whole.student.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.student.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_validation_teaches_a_policy_nothing(method: str) -> None:
    plain, disturbed = Search(method, 25).run(stop=2), Search(method, 25).run(stop=2)
    disturbed.student.eval()
    disturbed.student(torch.randn(4, 1, 6, 6))
    disturbed.student.train()
    plain.run(start=2), disturbed.run(start=2)
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(plain.sites, disturbed.sites, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_unknown_option_is_refused(method: str) -> None:
    with pytest.raises(aurep.AurepError, match=r"search\.options\.speed is not valid for " + method):
        check_options(method, {"speed": 9})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "teacher"
    settings = ["search.epochs=0", "finetune.epochs=0"]
    aurep.train(parse_config(RECIPE, "test", settings), out)
    return out


RUNS = [(method, BUDGETS[(number + shift) % 5]) for number, method in enumerate(METHODS) for shift in (0, 2)]


@pytest.mark.parametrize(("method", "budget"), RUNS, ids=[f"{method}-{budget}" for method, budget in RUNS])
def test_real_run_meets_the_budget(method: str, budget: int, teacher: Path, tmp_path: Path) -> None:
    overrides = [f"baseline.checkpoint='{teacher}'", f"search.method={method}", f"search.budget={budget}"]
    result = aurep.train(parse_config(RECIPE, "test", overrides), tmp_path / "run")
    assert_met(method, [site.kept for site in result.sites], budget, LAYERS)
    assert result.relu_count == sum(site.kept for site in result.sites)
    assert {site.degree for site in result.sites} == {0 if method in ("snl", "senet") else 2}


@pytest.mark.parametrize(("method", "degree"), [("snl", 2), ("senet", 1), ("autorep", 0)])
def test_any_degree_on_request(method: str, degree: int, teacher: Path, tmp_path: Path) -> None:
    overrides = [f"baseline.checkpoint='{teacher}'", f"search.method={method}", f"search.degree={degree}"]
    result = aurep.train(parse_config(RECIPE, "test", [*overrides, "search.budget=96"]), tmp_path / "run")
    assert result.relu_count == 96
    assert {site.degree for site in result.sites} == {degree}


def test_eta_of_the_wrong_length_is_refused_before_training(tmp_path: Path) -> None:
    overrides = ["search.method=senet", "search.options={eta = [1.0, 2.0]}"]
    with pytest.raises(aurep.AurepError, match="eta has 2 numbers but the model has 8 sites"):
        aurep.train(parse_config(RECIPE, "test", overrides), tmp_path / "run")


def test_engine_names_no_method() -> None:
    from aurep.training import engine

    text = Path(engine.__file__).read_text()
    assert not any(f'"{method}"' in text for method in METHODS)
