"""The outlook on a plain network against networks that really were cut and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import aurep
from aurep.exporters.quiet import quiet
from aurep.models import build_model
from aurep.surgery import hybrid_sites
from aurep.validators.inspection import inspect
from aurep.validators.outlook import CASES

FRAMEWORK = {"crypten": ("crypten", "Beaver"), "spu": ("spu", "SEMI2K")}


def exported(share: float, target: str, folder: Path, most: int | None = None) -> Path:
    torch.manual_seed(0)
    network = build_model("resnet9", num_classes=10, width=4, input_size=16)
    hybrid = aurep.prepare(network, torch.zeros(1, 3, 16, 16))
    sites = hybrid_sites(hybrid)
    largest = sorted(sites, key=lambda site: site.mask.numel(), reverse=True)[:most]
    held = sum(site.mask.numel() for site in largest) / sum(site.mask.numel() for site in sites)
    for site in sites:
        mask = torch.zeros(site.mask.numel())
        if site in largest:
            mask[: int(min(share / held, 1.0) * mask.numel())] = 1
        site.set_mask(mask[torch.randperm(mask.numel())].view(site.shape))
    return aurep.export(
        hybrid.eval(), torch.zeros(1, 3, 16, 16), folder / f"{target}-{share}-{most}.onnx", target=target
    )


def looked_up(rows: tuple[dict[str, Any], ...], target: str) -> dict[str, int]:
    framework, protocol = FRAMEWORK[target]
    (found,) = [row for row in rows if (row["framework"], row["protocol"]) == (framework, protocol)]
    return {key: found[key] for key in ("bytes", "weight_opening", "rounds")}


@pytest.mark.parametrize("target", ["crypten", "spu"])
def test_the_outlook_is_what_a_network_cut_to_that_share_costs(target: str, tmp_path: Path) -> None:
    plain = inspect(exported(1.0, target, tmp_path))
    for row, (share, most) in zip(plain.outlook, CASES, strict=True):
        real = inspect(exported(share, target, tmp_path, most))
        assert (row["share"], row["relu_count"], row["relu_sites"]) == (share, real.relu_count, real.relu_sites)
        ahead, behind = looked_up(tuple(row["estimates"]), target), looked_up(real.estimates, target)
        assert ahead["weight_opening"] == behind["weight_opening"]
        assert ahead["rounds"] == behind["rounds"]
        assert ahead["bytes"] == pytest.approx(behind["bytes"], rel=1e-3)  # each site's bytes are rounded


def test_a_file_that_aurep_did_not_write_has_an_outlook_too(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2)
    )
    path = tmp_path / "plain.onnx"
    with quiet():  # torch's exporter warns of itself
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=True, verbose=False)
    found = inspect(path)
    assert [row["share"] for row in found.outlook] == [1.0, 0.1, 0.01, 0.0]  # one site is all there are
    costs = [looked_up(tuple(row["estimates"]), "crypten")["bytes"] for row in found.outlook]
    assert costs == sorted(costs, reverse=True)
    assert found.outlook[0]["relu_count"] == 144
