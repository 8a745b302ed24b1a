"""The rules of each target hold for what is written, and the linter finds what breaks them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aurep import AurepError, prepare, relu_sites, set_mask
from aurep.exporters import TARGETS, export, find_target
from aurep.metadata import Metadata, graph_digest
from aurep.surgery import hybrid_sites
from aurep.validators import validate
from tests.exporters.exporting import NET, Block, assert_scaled, classifier, example, initializers, ops, run, small_net


def load(file: Path) -> onnx.ModelProto:
    return onnx.load(file)


@pytest.mark.parametrize("target", ["spu", "crypten", "mask", "onnxruntime"])
def test_every_form_of_a_network_is_the_eager_one(target: str, tmp_path: Path) -> None:
    model = small_net()
    file = export(model, example(1), tmp_path / "m.onnx", target, batch=3)
    x = example(3, seed=5)
    assert_scaled(run(file, x.numpy()), model(x).detach().numpy(), NET)
    assert not load(file).functions


def test_crypten_weights_are_initializers_and_the_rest_constants(tmp_path: Path) -> None:
    saved = load(export(small_net(), example(), tmp_path / "m.onnx", "crypten"))
    assert {a.dtype for a in initializers(saved).values()} == {np.dtype(np.float32)}
    assert all(name.endswith((".weight", ".bias")) for name in initializers(saved))
    constants = {node.name for node in saved.graph.node if node.op_type == "Constant"}
    assert {"0.relu/c0", "0.relu/c1", "0.relu/c2", "0.relu/relu_index", "0.relu/select", "0.relu/shape"} <= constants
    for node in saved.graph.node:
        assert node.op_type != "Mul" or node.input[0] not in constants


def test_crypten_coefficients_can_be_secret(tmp_path: Path) -> None:
    saved = load(export(small_net(), example(), tmp_path / "m.onnx", "crypten", secret_coefficients=True))
    assert {"0.relu/c0", "0.relu/c1", "0.relu/c2"} <= set(initializers(saved))
    assert "0.relu/select" not in initializers(saved)


def test_crypten_reads_every_constant_once(tmp_path: Path) -> None:
    class Clipped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, :1, :1].clamp(0, 1) * x[:, 1:2, 1:2].clamp(0, 1) ** 2).mean((2, 3))

    file = export(Clipped(), example(), tmp_path / "m.onnx", "crypten", batch=2)
    assert not initializers(load(file))
    inputs = [name for node in load(file).graph.node for name in node.input if name != "input"]
    assert len(inputs) == len(set(inputs))
    assert_scaled(run(file, example().numpy()), Clipped()(example()).numpy(), NET)


def test_crypten_skeleton_is_the_same_graph_without_weights(tmp_path: Path) -> None:
    file = export(small_net(), example(), tmp_path / "b", "crypten")
    full, empty = load(file), load(file.with_name("skeleton.onnx"))
    assert [n.SerializeToString() for n in full.graph.node] == [n.SerializeToString() for n in empty.graph.node]
    assert {k: a.shape for k, a in initializers(full).items()} == {k: a.shape for k, a in initializers(empty).items()}
    assert not any(a.any() for a in initializers(empty).values())
    claim = Metadata.from_props({p.key: p.value for p in empty.metadata_props})
    assert claim.graph_sha256 == graph_digest(empty)


def test_helayers_takes_networks_of_polynomials_only(tmp_path: Path) -> None:
    with pytest.raises(
        AurepError, match=r"helayers cannot take this model: Relu node '0\.relu/Relu' compares; search with"
    ):
        export(small_net(), example(), tmp_path / "m.onnx", "helayers")
    saved = load(export(small_net(density=0.0), example(), tmp_path / "m.onnx", "helayers"))
    assert set(ops(saved)) == {"Conv", "Mul", "Add", "AveragePool", "Flatten", "Gemm"}
    pooled = prepare(classifier(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.MaxPool2d(2)).eval(), example())
    set_mask(pooled, relu_sites(pooled)[0].name, torch.zeros(4, 6, 6))
    with pytest.raises(AurepError, match="maxpool='avg'"):
        export(pooled, example(), tmp_path / "m.onnx", "helayers")


def test_comparisons_are_those_of_the_form(tmp_path: Path) -> None:
    model = small_net()
    counts = {}
    for target in ("onnx", "mask", "onnxruntime"):
        saved = load(export(model, example(), tmp_path / "m.onnx", target))
        counts[target] = Metadata.from_props({p.key: p.value for p in saved.metadata_props}).comparisons
    sites = relu_sites(model)
    kept, total = sum(s.kept for s in sites), sum(s.elements for s in sites)
    assert counts == {"onnx": {"Relu": kept}, "mask": {"Relu": total}, "onnxruntime": {"Max": total}}
    everywhere = {name for name, found in counts.items() if total in found.values()}
    assert everywhere == {name for name, target in TARGETS.items() if target.framework.compares_everywhere}


def test_secret_coefficients_change_no_shared_target() -> None:
    assert find_target("crypten", secret_coefficients=True).coefficients_as == "initializer"
    assert TARGETS["crypten"].coefficients_as == "constant"


def test_an_operator_that_crypten_lacks_is_named(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, 1)
            return (a * b).mean((2, 3))

    with pytest.raises(AurepError, match="Split node 'Split_0' is an operator that crypten does not know"):
        export(Halves(), example(), tmp_path / "m.onnx", "crypten")


def test_pre_activation_networks_reach_every_target(tmp_path: Path) -> None:
    model = prepare(classifier(Block(2, 4, 2, pre=True)).eval(), example())
    for target in TARGETS:
        if target != "helayers":
            export(model, example(), tmp_path / f"{target}.onnx", target)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "helayers"])
def test_a_coefficient_of_negative_zero_is_zero(target: str, tmp_path: Path) -> None:
    model = small_net(density=0.3)
    for site in hybrid_sites(model):
        assert site.coefficients is not None
        coefficients = site.coefficients.detach().clone()
        coefficients[0] = -0.0  # what a dead channel is fitted with
        coefficients[1, 0] = coefficients[2, 1] = coefficients[3, 2] = -0.0
        site.set_coefficients(coefficients)
    checks = {check.name: check for check in validate(export(model, example(), tmp_path / "m.onnx", target)).checks}
    assert checks["sites"].passed, checks["sites"]
