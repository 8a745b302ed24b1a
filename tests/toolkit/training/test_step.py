"""A batch in parts: the gradients, scores and totals of the whole batch, whatever the number of parts."""

from __future__ import annotations

import copy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from aurep import fit_polynomials, prepare
from aurep.errors import Diverged
from aurep.search import check_options, policy_class
from aurep.surgery import hybrid_sites
from aurep.training import engine, train
from aurep.training.config import SearchConfig
from aurep.training.phase import Phase
from aurep.training.step import train_step
from tests.tolerances import FLOAT32
from tests.toolkit.training.tiny import tiny_config

X = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HARD = torch.arange(12) % 4
SOFT = torch.rand(12, 4, generator=torch.Generator().manual_seed(1)).softmax(1)


def network() -> nn.Module:
    """Without batch norms, whose statistics are those of each part."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)
    )
    model = prepare(plain, X[:1])
    for site in hybrid_sites(model):
        site.set_mask(torch.rand(site.shape) < 0.5)
    fit_polynomials(model, [X])
    return model


def stepped(parts: int, y: Tensor, method: str, x: Tensor = X) -> tuple[nn.Module, Tensor, Any]:
    model = network()
    config = SearchConfig(method=method, optimizer="sgd", clip_norm=1.0)
    policy = policy_class(method)(hybrid_sites(model), 100, check_options(method, {}), 3, steps=2)
    policy.start()
    fabric = Fabric(accelerator="cpu", devices=1, plugins=LightningEnvironment())
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}], lr=0.1)
    wrapped, optimizer = fabric.setup(model, optimizer)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    phase = Phase("search", model, config, teacher, policy)
    totals = train_step(fabric, phase, wrapped, optimizer, x, y, parts)
    policy.after_step(0.5)
    return model, totals, policy.state_dict()


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("outlier", [1e25, float("nan")], ids=["its square overflows", "no number"])
def test_a_step_without_finite_gradients_is_left_out(outlier: float, parts: int) -> None:
    x = X.clone()
    x[2, 1, 4, 4] = outlier
    model, totals, state = stepped(parts, HARD, "saliency", x)
    assert totals.tolist() == [0, 0, 0]
    for parameter, before in zip(model.parameters(), network().parameters(), strict=True):
        assert torch.equal(parameter, before)
    for values in state["values"]:
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("method", ["autorep", "saliency"])
@pytest.mark.parametrize("y", [HARD, SOFT], ids=["labels", "mixed labels"])
@pytest.mark.parametrize("parts", [2, 5, 12])
def test_parts_add_up_to_the_whole_batch(parts: int, y: Tensor, method: str) -> None:
    whole, totals, state = stepped(1, y, method)
    split, split_totals, split_state = stepped(parts, y, method)
    torch.testing.assert_close(split_totals, totals, rtol=FLOAT32, atol=FLOAT32)
    for (name, weight), other in zip(whole.state_dict().items(), split.state_dict().values(), strict=True):
        torch.testing.assert_close(other, weight, rtol=FLOAT32, atol=FLOAT32, msg=name)
    for score, other in zip(state.get("values", []), split_state.get("values", []), strict=True):
        torch.testing.assert_close(other, score, rtol=FLOAT32, atol=FLOAT32)


def test_a_run_with_checkpointed_activations_ends_with_the_bits_of_one_without(tmp_path: Any) -> None:
    short = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 1, "search__method": "saliency"}
    runs = [
        train(tiny_config(train__checkpoint_activations=value, **short), tmp_path / value).run_dir
        for value in ("false", "true")
    ]
    for name in ("model.safetensors", "teacher.safetensors"):
        assert (runs[0] / name).read_bytes() == (runs[1] / name).read_bytes()


def test_a_run_in_parts_meets_its_budget(tmp_path: Any) -> None:
    short = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 1}
    result = train(tiny_config(train__accumulate=3, **short), tmp_path / "run")
    assert result.relu_count == result.relu_budget


@pytest.mark.parametrize("unseen", [1, 1_000])
def test_a_batch_unseen_is_no_end_and_most_of_an_epoch_is(
    unseen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of a search's batches, and all of them."""
    numbers = count()

    def step(fabric: Fabric, phase: Phase, *arguments: Any) -> Tensor:
        totals = train_step(fabric, phase, *arguments)
        return torch.zeros_like(totals) if phase.name == "search" and next(numbers) < unseen else totals

    monkeypatch.setattr(engine, "train_step", step)
    config = tiny_config(baseline__epochs=1, search__epochs=1, finetune__epochs=1)
    if unseen == 1:
        assert (train(config, tmp_path / "run").run_dir / "run.json").is_file()
        return
    with pytest.raises(Diverged, match="search became NaN"):
        train(config, tmp_path / "run")
