"""With a run: masks and coefficients against its checkpoint, logits against its eager model, faults localised."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import Tensor, nn

from aurep import HybridActivation
from aurep.errors import AurepError
from aurep.metadata import TrainingClaim
from aurep.validators.checks.ranges import measure, probe
from aurep.validators.files.samples import eager_bounds, eager_sites
from aurep.validators.graph.batch import Walks
from aurep.validators.sites.recovery import recover_sites
from aurep.validators.validation import validate  # in this process, where things can be put in its way
from tests.validators import graphs


class Eager(nn.Module):
    """The network of `graphs.hybrid` in torch."""

    def __init__(self, made: graphs.Hybrid) -> None:
        super().__init__()
        stored = {name: torch.from_numpy(values(made.model, name)) for name in ("weight", "matrix")}
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.act = HybridActivation(graphs.SHAPE, site="act")
        self.conv.weight.data = stored["weight"]
        self.act.set_mask(torch.from_numpy(made.mask))
        self.act.set_coefficients(torch.from_numpy(made.coefficients))
        self.matrix = nn.Parameter(stored["matrix"])

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x)).flatten(1) @ self.matrix


def values(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(graphs.initializer(model, name)).copy()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A run folder at `run.path`, as `aurep.training.load_run` reads it."""
    made = graphs.hybrid()
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({"act.mask": made.mask, "act.coefficients": made.coefficients}, folder / "model.safetensors")
    inputs = np.random.default_rng(5).normal(size=(8, *graphs.SHAPE)).astype(np.float32)
    found = SimpleNamespace(
        path=folder,
        model=Eager(made).eval(),
        samples=lambda count: (inputs[:count], np.zeros(len(inputs[:count]), np.int64)),
        training=TrainingClaim(data="toy"),
        config=SimpleNamespace(data=SimpleNamespace(name="npz:absent.npz", dir=None)),
    )
    monkeypatch.setattr("aurep.training.load_run", lambda path, data_dir=None: found)
    return found


def test_a_run_is_compared_with(run: SimpleNamespace, bundle: Path) -> None:
    report = validate(bundle, run=run.path)
    assert report.passed, report
    checks = {check.name: check for check in report.checks}
    assert "checkpoint" in str(checks["sites"].measured)
    assert "eager model" in checks["parity"].hint
    assert any("Accuracy was not measured" in note for note in report.notes)  # the run's data set is not here


def test_a_run_gives_a_lone_file_its_samples(run: SimpleNamespace, bundle: Path) -> None:
    assert "parity" in [check.name for check in validate(bundle / "model.onnx", run=run.path).checks]


def test_a_fault_is_localised_to_its_site(run: SimpleNamespace, bundle: Path) -> None:
    run.model.act.set_coefficients(run.model.act.coefficients.detach() * 1.1)
    checks = {check.name: check for check in validate(bundle, run=run.path).checks}
    assert not checks["parity"].passed
    assert checks["localise"].measured == "act"


def test_inputs_of_the_sites_are_measured_alike_in_the_graph_and_in_the_model(
    run: SimpleNamespace, bundle: Path
) -> None:
    graph = onnx.load(bundle / "model.onnx")
    sites = recover_sites(Walks(graph))
    inputs, _ = run.samples(8)
    found = measure(probe(graph, sites, "cpu"), sites, [inputs])
    expected = eager_bounds(run, inputs)
    assert list(found) == list(expected) == ["act"]
    np.testing.assert_allclose(found["act"], expected["act"], rtol=1e-5, atol=1e-5)  # sums of 36 products in fp32
    assert not any(m._forward_hooks for m in run.model.modules())


def test_calls_of_one_module_are_sites_of_their_own_named_as_in_a_file() -> None:
    site = HybridActivation((2,), site="act")
    model = nn.Sequential(site, nn.Linear(2, 2, bias=False), site).eval()
    x = np.float32([[1, -2], [3, 4]])
    found = eager_sites(SimpleNamespace(model=model), x, lambda given, y: (given.numpy(), y.numpy()))
    assert list(found) == ["act", "act:1"]
    np.testing.assert_array_equal(found["act"], (x, np.maximum(x, 0)))
    np.testing.assert_array_equal(found["act:1"][1], np.maximum(found["act:1"][0], 0))


def test_data_that_was_asked_for_must_be_there(run: SimpleNamespace, bundle: Path) -> None:
    with pytest.raises(AurepError, match=r"absent\.npz"):
        validate(bundle, run=run.path, min_accuracy=10.0)


def test_a_drop_is_measured_from_the_teacher_of_the_run(
    run: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the file says of it."""
    made = graphs.hybrid()
    modest = TrainingClaim(data="toy", teacher_test_accuracy=1.0)
    folder = graphs.bundle(tmp_path / "b", made, graphs.claim(made, training=modest))
    images = np.random.default_rng(0).integers(0, 256, (8, *graphs.SHAPE), dtype=np.uint8)
    least = run.model(torch.from_numpy(images.astype(np.float32) / 255)).argmin(1).numpy()
    toy = SimpleNamespace(name="toy", x_test=images, y_test=least)  # of which the model has none right
    monkeypatch.setattr("aurep.validators.checks.accuracy.load", lambda *_, **__: toy)
    assert validate(folder, data="toy", max_accuracy_drop=2.0).passed
    run.teacher = lambda inputs: -run.model(inputs)  # and this teacher all
    report = validate(folder, run=run.path, data="toy", max_accuracy_drop=2.0)
    (check,) = [check for check in report.checks if check.name == "accuracy"]
    assert not check.passed
    assert check.detail["reference"] == 100
    assert (check.detail["lost"], check.detail["won"]) == (8, 0)
