"""What `auto` comes to on machines with and without bf16 in hardware, and that a run keeps to what it took."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from aurep import AurepError
from aurep.kernels import cpu_build
from aurep.training.arithmetic import settle
from aurep.training.checkpoint import RunFolder
from aurep.training.compare import compare
from aurep.training.config import check_config, parse_config
from aurep.training.pipeline import Pipeline
from aurep.training.progress import Progress
from aurep.training.runs import train
from aurep.training.setup import make_fabric
from tests.toolkit.training.tiny import tiny_config

CPU = {"train": {"device": "cpu"}}


def has(monkeypatch: pytest.MonkeyPatch, *units: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(units, True))


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_where_the_processor_has_it(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "avx2", unit)
    said: list[str] = []
    train = settle(check_config(CPU), said.append).train
    assert train.precision == "bf16"
    assert (train.kernels, train.fuse) == (("compiled", True) if cpu_build.available() else ("auto", False))
    assert f"precision: bf16, since this processor has {unit}" in said[-1]


def test_fp32_elsewhere_with_the_kernels_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "avx2", "avx512_f")
    said: list[str] = []
    train = settle(check_config(CPU), said.append).train
    assert (train.precision, train.kernels, train.fuse) == ("fp32", "auto", False)
    assert said == ["precision: fp32, since this CPU has no bf16 in hardware; kernels: eager"]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_what_is_asked_for_is_taken(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch)
    asked = {"device": "cpu", "precision": precision, "kernels": "eager", "fuse": True}
    said: list[str] = []
    config = check_config({"train": asked})
    assert settle(config, said.append) == config
    assert ("slower than fp32" in said[-1]) == (precision == "bf16")


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(AurepError, match=r"fp16.*for GPUs.*bf16"):
        settle(check_config({"train": {"device": "cpu", "precision": "fp16"}}))


def test_a_run_goes_on_with_what_it_took(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    has(monkeypatch, "avx512_bf16")
    short = dict.fromkeys(["baseline__epochs", "search__epochs", "finetune__epochs"], 1)
    result = train(tiny_config(**short), tmp_path)
    taken = (tmp_path / "config.toml").read_text()
    assert 'precision = "bf16"' in taken
    assert result.precision == "bf16"
    assert result.kernels == ("compiled C++, fused" if cpu_build.available() else "eager")
    has(monkeypatch)
    resumed = Pipeline(parse_config(taken), RunFolder(tmp_path), Progress(None))
    assert resumed.config.train.precision == "bf16"


def test_workers_of_a_comparison_follow_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = tiny_config(**dict.fromkeys(["baseline__epochs", "search__epochs", "finetune__epochs"], 0))
    has(monkeypatch)
    compare(recipe, tmp_path, ["random"], ["10%"], [0])
    has(monkeypatch, "avx512_bf16")
    compare(recipe, tmp_path, ["random", "uniform"], ["10%"], [0])
    assert 'precision = "fp32"' in (tmp_path / "uniform-10pct-s0" / "config.toml").read_text()


def test_fabric_says_nothing_of_its_own(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        fabric = make_fabric(check_config({"train": {"device": "cpu", "precision": "bf16"}}))
    with fabric.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
