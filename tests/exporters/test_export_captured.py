"""Exports that share what torch's exporter made: the same files, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aurep.errors import AurepError
from aurep.exporters import export
from aurep.exporters.pipeline import Captured
from tests.exporters.exporting import example, randomise, small_net


def test_other_masks_and_targets_take_one_capture_a_batch(tmp_path: Path) -> None:
    model = small_net()
    weights = {name: value.clone() for name, value in model.state_dict().items() if "bn" in name}
    captured: Captured = {}
    for number, target in enumerate(["onnx", "mask", "onnxruntime", "crypten", "onnx"]):
        randomise(model, number).load_state_dict(weights, strict=False)
        shared = export(model, example(), tmp_path / "shared.onnx", target, captured=captured)
        alone = export(model, example(), tmp_path / "alone.onnx", target)
        assert shared.read_bytes() == alone.read_bytes()
        kept = dict(captured)
    assert captured == kept
    assert captured.keys() == {"dynamic", 1}


def test_another_network_is_captured_anew(tmp_path: Path) -> None:
    captured: Captured = {}
    for degree in (2, 1):  # the coefficients are of another shape
        model = small_net(degree=degree)
        shared = export(model, example(), tmp_path / "shared.onnx", captured=captured)
        alone = export(model, example(), tmp_path / "alone.onnx")
        assert shared.read_bytes() == alone.read_bytes()


def test_other_weights_are_no_file_of_this_network(tmp_path: Path) -> None:
    captured: Captured = {}
    model = small_net()
    export(model, example(), tmp_path / "one.onnx", captured=captured)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(AurepError, match="differs from the model"):
        export(model, example(), tmp_path / "two.onnx", captured=captured)
