"""Random networks, masks, coefficients and targets: the file computes what the module computes, costs what is counted,
and passes its own validation.

Torch's exporter takes a second a network, a third less where it makes its table of operators once for all, and all else
a third of that: so each network is exported once, to one target, with masks and coefficients of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aurep import exporters, prepare, relu_sites
from aurep.errors import AurepError
from aurep.exporters import export
from aurep.exporters.capture import Batch
from aurep.exporters.pipeline import Captured
from aurep.metadata import Origin
from aurep.validators.session import Session
from aurep.validators.validation import validate
from tests.exporters.exporting import NET, assert_scaled, randomise, run
from tests.random_networks import Plan, compared, plans

NETWORKS = 150 if os.environ.get("CI") else 2  # for each batch, and one given
TARGETS = {"dynamic": ("onnx", "onnxruntime", "mask"), 1: ("crypten", "spu", "helayers")}  # by the batch they take
EVERYWHERE = ("mask", "onnxruntime")  # targets that compare at all elements of a site


@dataclass(frozen=True)
class Draw:
    """Which of the targets, how many elements are kept, and where masks and coefficients are from."""

    target: int
    density: float
    seed: int
    budgeted: bool


draws = st.builds(
    Draw,
    target=st.integers(0, 2),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
    budgeted=st.booleans(),
)


@pytest.fixture(scope="module", autouse=True)
def _one_table_of_operators() -> Iterator[None]:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.mark.parametrize("batch", TARGETS)
@settings(
    max_examples=NETWORKS,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take hours
)
@given(
    plan=plans,
    degree=st.sampled_from([0, 1, 2]),
    coefficients=st.sampled_from(["channel", "element"]),
    draw=draws,
)
@example(  # the maximum over positions that a border made, where a pooling is no pooling
    Plan(("growing max pool", "strided residual", "growing max pool", "conv"), False, 1174),
    1,
    "channel",
    Draw(0, 0.1, 1174, True),
)
def test_export_and_validation_agree(batch: Batch, plan: Plan, degree: int, coefficients: str, draw: Draw) -> None:
    if batch == 1:  # both are given the same draws: other networks of them
        plan = replace(plan, layers=plan.layers[::-1], site=not plan.site)
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(plan.seed))
    model = prepare(plan.build(), x[:1], degree=degree, coefficients=coefficients).eval()
    target = TARGETS[batch][draw.target]
    randomise(model, draw.seed, 0.0 if target == "helayers" else draw.density)
    with TemporaryDirectory() as folder, torch.no_grad():
        _agree(model, x, target, draw.budgeted, Path(folder) / "bundle")


def test_every_target_is_tried() -> None:
    assert {name for names in TARGETS.values() for name in names} == exporters.TARGETS.keys()


def _agree(model: nn.Module, x: Tensor, target: str, budgeted: bool, folder: Path) -> None:
    sites = relu_sites(model)
    origin = Origin(relu_budget=sum(site.kept for site in sites)) if budgeted else None
    samples = (x.numpy(), np.zeros(4, np.int64))
    captured: Captured = {}
    try:
        file = export(model, x[:1], folder, target, origin=origin, samples=samples, captured=captured)
    except AurepError as error:
        if "cannot take this model" not in str(error):
            raise
        event(f"{target} refuses")
        target = "onnx"
        file = export(model, x[:1], folder, target, batch=1, origin=origin, samples=samples, captured=captured)
    eager = model(x).numpy()
    proto = onnx.load(file)
    rows = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 4
    assert_scaled(np.concatenate([run(proto, x[i : i + rows].numpy()) for i in range(0, 4, rows)]), eager, NET)
    assert_scaled(Session(proto, "cpu").run(x.numpy()), eager, NET)
    inside = sum(site.elements if target in EVERYWHERE and site.kept else site.kept for site in sites)
    others = compared(model, x[:1])
    report = validate(file.parent)  # in this process: the files are our own
    assert report.passed, report
    counted = report.relu_count, sum(report.poolings.values())
    assert counted == (inside + others.outside, others.pooling)
