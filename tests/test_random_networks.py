"""Random networks, masks, coefficients and targets: the file computes what the module computes, costs what is counted,
and passes its own validation."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from aurep import prepare, relu_sites
from aurep.errors import AurepError
from aurep.exporters import TARGETS, export
from aurep.metadata import Origin
from aurep.validators.relu_count import count_relus
from aurep.validators.session import Session
from aurep.validators.validation import validate
from tests.exporters.exporting import NET, assert_scaled, randomise, run
from tests.random_networks import Plan, outside, plans

EXAMPLES = 24 if os.environ.get("CI") else 8  # of some four seconds each, most of them torch's exporter
EVERYWHERE = ("mask", "onnxruntime")  # targets that compare at all elements of a site


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take hours
)
@given(
    plan=plans,
    target=st.sampled_from(sorted(TARGETS)),
    degree=st.sampled_from([0, 1, 2]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    coefficients=st.sampled_from(["channel", "element"]),
    budgeted=st.booleans(),
)
def test_export_and_validation_agree(
    plan: Plan, target: str, degree: int, density: float, coefficients: str, budgeted: bool
) -> None:
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(plan.seed))
    kept = 0.0 if target == "helayers" else density
    model = randomise(prepare(plan.build(), x[:1], degree=degree, coefficients=coefficients).eval(), plan.seed, kept)
    sites = relu_sites(model)
    budget = sum(site.kept for site in sites)
    origin = Origin(relu_budget=budget) if budgeted else None
    samples = (x.numpy(), np.zeros(4, np.int64))
    with TemporaryDirectory() as folder, torch.no_grad():  # in this process: the files are our own
        try:
            file = export(model, x[:1], Path(folder) / "bundle", target, origin=origin, samples=samples)
        except AurepError as error:
            if "cannot take this model" not in str(error):
                raise
            event(f"{target} refuses")
            file = export(model, x[:1], Path(folder) / "bundle", "onnx", origin=origin, samples=samples)
            target = "onnx"
        eager = model(x).numpy()
        proto = onnx.load(file)
        rows = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 4
        assert_scaled(np.concatenate([run(proto, x[i : i + rows].numpy()) for i in range(0, 4, rows)]), eager, NET)
        assert_scaled(Session(proto, "cpu").run(x.numpy()), eager, NET)
        inside = sum(site.elements if target in EVERYWHERE and site.kept else site.kept for site in sites)
        assert count_relus(file).total == inside + outside(model, x[:1])
        report = validate(file.parent)
        assert report.passed, report
