"""What a run is said to cost against its own exported files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurep import export, load_run
from aurep.costs import RunCosts
from aurep.training import train
from aurep.training.compare import compare
from aurep.validators.inspection import inspect
from tests.toolkit.training.tiny import tiny_config

SHORT = {"baseline__epochs": 1, "search__epochs": 1, "finetune__epochs": 1}


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_costs_of_a_run_are_those_of_its_export(degree: int, tmp_path: Path) -> None:
    config = tiny_config(**SHORT, search__method="random", search__degree=degree, search__max_sites=2)
    out = train(config, tmp_path / "run").run_dir
    costs = {(row["framework"], row["protocol"]): row for row in RunCosts()(out)}
    run = load_run(out)
    for target, protocol in (("crypten", "Beaver"), ("spu", "SEMI2K")):
        file = export(run.model, run.example_input, tmp_path / f"{target}.onnx", target)
        (real,) = [e for e in inspect(file).estimates if (e["framework"], e["protocol"]) == (target, protocol)]
        assert costs[target, protocol]["rounds"] == real["rounds"]
        assert costs[target, protocol]["weight_opening"] == real["weight_opening"]
        assert costs[target, protocol]["bytes"] == pytest.approx(real["bytes"], rel=1e-3)  # bytes of a site are rounded


def test_a_comparison_has_rounds_and_sites(tmp_path: Path) -> None:
    variants = {"one site": ["search.method=random", "search.max_sites=1"]}
    rows = compare(tiny_config(**SHORT), tmp_path, ["random", "one site"], ["7"], [0], None, variants, RunCosts())
    everywhere, single = rows
    assert single.relu_sites == 1 < everywhere.relu_sites
    rounds = {row.method: {c.protocol: c.rounds for c in row.costs}["crypten Beaver"] for row in rows}
    assert rounds["random"] - rounds["one site"] == 9 * (everywhere.relu_sites - 1)  # a comparison's, where one went
    assert "Over crypten Beaver rounds" in (tmp_path / "comparison.html").read_text()
