"""Golden graphs: the text of small exports, so that a change of the file's form is seen and decided on.

`python tests/exporters/test_export_golden.py` writes them anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import pytest
import torch

from aurep import prepare, relu_sites, set_mask
from aurep.exporters import TARGETS, export
from tests.exporters.exporting import elided, example, small_net

FOLDER = Path(__file__).parent / "golden"
CASES = [*TARGETS, "onnx-degree-1", "onnx-degree-0", "onnx-none-kept", "onnx-all-kept"]


def text_of(case: str, folder: Path) -> str:
    target, _, variant = case.partition("-")
    degree = int(variant[-1]) if variant.startswith("degree") else 2
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 1, 3, 3), torch.nn.BatchNorm2d(1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    model = prepare(net.eval(), example(), degree=degree)
    kept = {"none-kept": (), "all-kept": (0, 1, 2, 3)}.get(variant, () if target == "helayers" else (1, 2))
    set_mask(model, relu_sites(model)[0].name, torch.tensor([i in kept for i in range(4)]).reshape(1, 2, 2))
    return elided(onnx.load(export(model, example(), folder / "m.onnx", target)))


@pytest.mark.parametrize("case", CASES)
def test_graph_is_as_recorded(case: str, tmp_path: Path) -> None:
    assert text_of(case, tmp_path) == (FOLDER / f"{case}.txt").read_text()


def test_the_residual_network_is_as_recorded(tmp_path: Path) -> None:
    assert residual(tmp_path) == (FOLDER / "residual.txt").read_text()


def test_the_residual_network_with_pushed_constants_is_as_recorded(tmp_path: Path) -> None:
    assert pushed(tmp_path) == (FOLDER / "residual-pushed.txt").read_text()


def residual(folder: Path) -> str:
    return elided(onnx.load(export(small_net(density=0.02), example(), folder / "m.onnx")))


def pushed(folder: Path) -> str:
    model = small_net(density=0.02)
    return elided(onnx.load(export(model, example(), folder / "p.onnx", "onnxruntime", push_constants=True)))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            (FOLDER / f"{case}.txt").write_text(text_of(case, Path(name)))
        (FOLDER / "residual.txt").write_text(residual(Path(name)))
        (FOLDER / "residual-pushed.txt").write_text(pushed(Path(name)))
