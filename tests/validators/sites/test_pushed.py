"""Sites whose constants were moved out of them: recovered in full, and not the less checked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aurep import HybridActivation
from aurep.validators import validate
from aurep.validators.checks.localise import check_localise
from aurep.validators.inspection import inspect
from aurep.validators.report import Report
from aurep.validators.sites.recovery import recover_sites
from tests.validators import graphs

Change = Callable[[onnx.ModelProto], None]


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def bundle(folder: Path, form: str = "pushed", target: str = "onnxruntime") -> Path:
    made = graphs.hybrid(form)
    return graphs.bundle(folder, made, graphs.claim(made, target=target, comparisons={"Max": 144}))


def test_an_honest_bundle_passes_and_says_what_it_did_not_compare(tmp_path: Path) -> None:
    report = validate(bundle(tmp_path / "b"))
    assert report.passed, report
    hint = next(check.hint for check in report.checks if check.name == "sites")
    assert "moved out of 1 sites" in hint
    assert "for parity to say" in hint
    site = {"name": "act", "shape": [4, 6, 6], "elements": 144, "kept": 20, "degree": 2}
    assert report.sites == (site,)
    assert inspect(tmp_path / "b").sites == (site,)


def test_fixed_point_is_simulated(tmp_path: Path) -> None:
    assert validate(bundle(tmp_path / "b"), fixed_point="64:16").passed


def reads(node: str, place: int, name: str) -> Change:
    """`node` reads `name` at `place` instead of what it read."""

    def change(model: onnx.ModelProto) -> None:
        next(found for found in model.graph.node if found.name == node).input[place] = name

    return change


def nudged(name: str) -> Change:
    """The smallest change of all elements of an initializer that shows."""
    return graphs.change_initializer(name, lambda a: np.nextafter(a, np.float32(9), out=a))


def other_mask(model: onnx.ModelProto) -> None:
    graphs.change_initializer("mask", lambda a: a.__setitem__((0, 0), ~a[0, 0]))(model)


def mask_of_constant(model: onnx.ModelProto) -> None:
    """No floor where k is 0, and one at most elements by the k that there is."""
    graphs.add_initializers(model, most=np.array(-3.1e38, np.float32), huge=np.array(3e37, np.float32))
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "act/floors")
    raised = [
        onnx.helper.make_node("Mul", ["k", "k"], ["square"], "act/square"),
        onnx.helper.make_node("Mul", ["square", "huge"], ["raise"], "act/raise"),
        onnx.helper.make_node("Add", ["raise", "most"], ["nearly"], "act/nearly"),
    ]
    for step in reversed(raised):
        model.graph.node.insert(at, step)
    reads("act/floors", 2, "nearly")(model)


# What fails at the least, and whether only running the graph tells.
TAMPERINGS: dict[str, tuple[Change, str]] = {
    "c2": (nudged("e2"), "sites"),
    "c1": (nudged("e1"), "sites"),
    "c0": (nudged("e0"), "sites"),
    "mask": (other_mask, "sites"),
    "a floor for all": (graphs.change_initializer("never", lambda a: a.fill(-1e30)), "sites"),
    "a mask that the constant decides": (mask_of_constant, "sites"),
    "c2 that the constant decides": (reads("act/Mul", 1, "i"), "sites"),
    "c1 that the constant decides": (reads("act/slope", 0, "e1"), "parity"),
    "a floor of the other sign": (reads("act/floors", 1, "k"), "parity"),
    "a constant that is not added": (reads("behind", 1, "t"), "sites"),
    "a constant of the other sign": (reads("lower", 1, "lowering"), "parity"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_fails(name: str, tmp_path: Path) -> None:
    change, expected = TAMPERINGS[name]
    report = validate(graphs.tamper(bundle(tmp_path / "b"), change))
    assert expected in failed(report), report
    assert expected == "sites" or "sites" not in failed(report)


@pytest.mark.parametrize("target", ["onnx", "mask"])
def test_other_targets_move_no_constants(target: str, tmp_path: Path) -> None:
    report = validate(bundle(tmp_path / "b", target=target))
    assert "sites" in failed(report)
    assert f"files for {target} do not do" in next(c.hint for c in report.checks if c.name == "sites")


def without_constant(model: onnx.ModelProto) -> None:
    node = next(found for found in model.graph.node if found.name == "act/Add0")
    reads("act/Max", 0, node.input[0])(model)
    model.graph.node.remove(node)


ORDINARY: dict[str, Change] = {
    "c0": nudged("e0"),
    "c1": nudged("e1"),
    "no c0": without_constant,
    "a raised floor": graphs.change_initializer("floor", lambda a: a.__setitem__(a == 0, np.float32(0.01))),
    "a floor for all": graphs.change_initializer("floor", lambda a: np.maximum(a, -1e30, out=a)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_site_is_held_to_every_term(name: str, tmp_path: Path) -> None:
    report = validate(graphs.tamper(bundle(tmp_path / "b", "max"), ORDINARY[name]))
    assert "sites" in failed(report), report


def test_a_site_that_a_constant_makes_uneven_is_not_pointwise() -> None:
    even, pushed = (recover_sites(graphs.hybrid(form).model)["act"] for form in ("max", "pushed"))
    assert even.even
    assert not pushed.even


def test_localise_adds_what_was_moved() -> None:
    made = graphs.hybrid("pushed")
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), HybridActivation(graphs.SHAPE, site="act")).eval()
    weight = onnx.numpy_helper.to_array(graphs.initializer(made.model, "weight")).copy()
    model[0].weight.data = torch.from_numpy(weight)
    model[1].set_mask(torch.from_numpy(made.mask))
    model[1].set_coefficients(torch.from_numpy(made.coefficients))
    inputs = np.random.default_rng(0).normal(size=(2, *graphs.SHAPE)).astype(np.float32)
    sites, run = recover_sites(made.model), SimpleNamespace(model=model)
    assert check_localise(made.model, sites, inputs, run).measured == "after the last site"
    assert check_localise(made.model, sites, inputs).measured == "after the last site"
    model[1].set_coefficients(torch.from_numpy(made.coefficients + np.float32(0.1)))
    assert check_localise(made.model, sites, inputs, run).measured == "act"
