"""An honest bundle passes every check; each way of tampering with it fails the check that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from aurep.errors import AurepError
from aurep.files import sha256
from aurep.metadata import InputClaim, SiteClaim, TrainingClaim, coefficient_digest
from aurep.validators import validate
from aurep.validators.checks.accuracy import Bounds, check_accuracy
from aurep.validators.checks.localise import check_localise
from aurep.validators.checks.sites import check_sites
from aurep.validators.report import Report
from aurep.validators.session import Session
from aurep.validators.sites.recovery import recover_sites
from tests.validators import graphs


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def hint(report: Report, name: str) -> str:
    return next(check.hint for check in report.checks if check.name == name)


def test_an_honest_bundle_passes(bundle: Path) -> None:
    report = validate(bundle)
    assert report.passed, report
    assert [check.name for check in report.checks] == ["structure", "relu-count", "sites", "parity"]
    assert (report.relu_count, report.relu_total, report.relu_budget) == (20, 144, 20)
    site = {"name": "act", "shape": [4, 6, 6], "elements": 144, "kept": 20, "degree": 2}
    assert report.sites == (site,)
    assert report.provider == "cpu"


@pytest.mark.parametrize("form", ["mask", "max"])
def test_forms_that_compare_everywhere_pass_by_saying_so(form: str, tmp_path: Path) -> None:
    made = graphs.hybrid(form)
    target, op = {"mask": ("mask", "Relu"), "max": ("onnxruntime", "Max")}[form]
    metadata = graphs.claim(made, target=target, comparisons={op: 144})
    folder = graphs.bundle(tmp_path / "b", made, metadata)
    report = validate(folder)
    assert report.passed, report
    assert "saves nothing" in hint(report, "relu-count")
    assert failed(validate(folder, budget=20)) == {"relu-count"}


@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("kept", [1, 143])
def test_sites_are_recovered_bit_for_bit(form: str, kept: int) -> None:
    made = graphs.hybrid(form, kept=kept)
    site = recover_sites(made.model)["act"]
    assert np.array_equal(site.mask, made.mask)
    full = np.broadcast_to(made.coefficients[:, None, None], (*graphs.SHAPE, 3))
    assert site.coefficients[~made.mask].tobytes() == full[~made.mask].tobytes()
    assert site.has_digest(coefficient_digest(made.coefficients), 2) is not False
    wrong = made.coefficients + np.float32(1)
    assert site.has_digest(coefficient_digest(wrong), 2) is not True


def set_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "evil"


def with_batch_norm(model: onnx.ModelProto) -> None:
    ones = np.ones(4, np.float32)
    graphs.add_initializers(model, ones=ones)
    node = onnx.helper.make_node("BatchNormalization", ["h"] + ["ones"] * 4, ["bn"], name="bn")
    model.graph.node.insert(1, node)


def more_relus(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Relu", ["h"], ["spare"], name="spare"))


def other_function(model: onnx.ModelProto) -> None:
    """The polynomial's body becomes something of another degree."""
    del model.functions[0].node[:]
    model.functions[0].node.append(onnx.helper.make_node("Identity", ["x"], ["y"]))


TAMPERINGS: dict[str, tuple[Callable[[onnx.ModelProto], None], set[str]]] = {
    "opset": (lambda m: setattr(m.opset_import[0], "version", 20), {"structure"}),
    "ir version": (lambda m: setattr(m, "ir_version", 10), {"structure"}),
    "custom operator": (set_domain, {"structure", "relu-count", "sites"}),
    "batch norm": (with_batch_norm, {"structure"}),
    "node metadata": (lambda m: m.graph.node[0].metadata_props.add(key="file", value="/home/me"), {"structure"}),
    "dead relu": (more_relus, {"relu-count"}),
    "weight": (
        graphs.change_initializer("matrix", lambda a: a.__imul__(1.01)),
        {"parity", "localise"},
    ),
    "mask": (
        graphs.change_initializer("kept", lambda a: a.__setitem__(0, a[1])),
        {"sites", "parity"},
    ),
    "coefficient": (
        graphs.change_initializer("c2", lambda a: a.__setitem__(0, np.nextafter(a[0], np.float32(9)))),
        {"sites"},
    ),
    "function": (other_function, {"sites", "parity", "localise"}),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_fails_its_check(name: str, bundle: Path) -> None:
    change, expected = TAMPERINGS[name]
    report = validate(graphs.tamper(bundle, change))
    assert failed(report) == expected, report
    assert all(check.hint for check in report.checks if not check.passed)


def test_damage_shows_in_the_digest(bundle: Path) -> None:
    def nudge(array: np.ndarray) -> None:
        array[0, 0] = np.nextafter(array[0, 0], np.float32(9))

    graphs.tamper(bundle, graphs.change_initializer("matrix", nudge), rehash=False)
    report = validate(bundle)
    assert failed(report) == {"structure"}
    assert "graph_sha256" in hint(report, "structure")


SITE = {"name": "act", "shape": [4, 6, 6], "elements": 144, "kept": 19, "degree": 2}
LIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "fewer ReLUs": ({"relu_count": 19}, {"structure", "relu-count"}),
    "fewer comparisons": ({"comparisons": {"Relu": 19}}, {"relu-count"}),
    "other comparisons": ({"comparisons": {"Relu": 20, "MaxPool": 4}}, {"relu-count"}),
    "a lower budget": ({"relu_budget": 19}, {"relu-count"}),
    "more elements": ({"relu_total": 1440}, {"structure"}),
    "another input": ({"input": InputClaim(shape=(1, 12, 12))}, {"structure"}),
    "other classes": ({"classes": ("a", "b")}, {"structure"}),
    "an unknown target": ({"target": "tpu"}, {"structure"}),
    "no sites": ({"sites": ()}, {"sites", "relu-count", "structure"}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_false_claim_fails(name: str, tmp_path: Path) -> None:
    changes, expected = LIES[name]
    made = graphs.hybrid()
    report = validate(graphs.bundle(tmp_path / "b", made, graphs.claim(made, **changes)))
    assert failed(report) <= expected, report
    assert not report.passed


@pytest.mark.parametrize("field", ["mask_sha256", "coefficients_sha256", "name", "degree", "shape"])
def test_a_false_claim_about_a_site_fails(field: str, tmp_path: Path) -> None:
    made = graphs.hybrid()
    honest = graphs.claim(made).sites[0].model_dump()
    lies = {"mask_sha256": "0" * 64, "coefficients_sha256": "0" * 64, "name": "other", "degree": 1, "shape": (144,)}
    metadata = graphs.claim(made, sites=(SiteClaim(**{**honest, field: lies[field]}),))
    assert "sites" in failed(validate(graphs.bundle(tmp_path / "b", made, metadata)))


def test_budget_json_must_agree(bundle: Path) -> None:
    file = bundle / "budget.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({**fields, "relu_budget": 50}))
    assert failed(validate(bundle)) == {"structure"}
    file.write_text("[")
    assert "not JSON" in hint(validate(bundle), "structure")
    file.unlink()
    assert "budget.json" in hint(validate(bundle), "structure")


@pytest.mark.parametrize(
    ("budget", "passes"),
    [(20, True), (19, False), ("0.02k", True), ("10%", False), ("14%", True), ("13%", False), (10**9, True)],
)
def test_a_given_budget_decides(budget: str | int, passes: bool, bundle: Path) -> None:
    assert validate(bundle, budget=budget).passed is passes


@pytest.mark.parametrize("budget", ["many", "-3", "1.5"])
def test_a_malformed_budget_is_wrong_usage(budget: str, bundle: Path) -> None:
    with pytest.raises(AurepError, match="budget"):
        validate(bundle, budget=budget)


def test_a_plain_file_needs_a_budget(tmp_path: Path) -> None:
    file = graphs.save(graphs.body("y = Relu(x)"), tmp_path / "plain.onnx")
    report = validate(file)
    assert failed(report) == {"structure"}
    assert "--budget" in hint(report, "structure")
    assert report.relu_count == 144
    assert validate(file, budget=144).passed
    assert failed(validate(file, budget="50%")) == {"relu-count"}


def test_damaged_metadata_is_never_fine(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.metadata_props[0].value = "{"
    graphs.save(model, bundle / "model.onnx")
    assert failed(validate(bundle, budget=20)) == {"structure"}


def test_duplicate_metadata_is_refused(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.metadata_props.add(key="aurep.relu_count", value="0")
    graphs.save(model, bundle / "model.onnx")
    assert "twice" in hint(validate(bundle), "structure")


@pytest.mark.parametrize("batch", ["1", "4"])
def test_a_fixed_batch_is_run_in_parts(batch: str, tmp_path: Path) -> None:
    """Six samples do not fill two batches of four."""
    dynamic, fixed = graphs.hybrid(), graphs.hybrid(batch=batch)
    folder = graphs.bundle(tmp_path / "b", dynamic)
    metadata = graphs.claim(fixed)
    graphs.save(graphs.stamp(fixed.model, metadata), folder / "model.onnx")
    (folder / "budget.json").write_text(metadata.to_json())
    assert validate(folder).passed


def test_missing_samples_fail_a_bundle(bundle: Path) -> None:
    (bundle / "samples.npz").unlink()
    assert failed(validate(bundle)) == {"parity"}


@pytest.mark.parametrize("damage", ["noise", "names", "kinds", "objects"])
def test_unreadable_samples_are_one_sentence(damage: str, bundle: Path) -> None:
    file = bundle / "samples.npz"
    ones = np.ones((2, 4, 6, 6))
    if damage == "noise":
        file.write_bytes(b"PK\x03\x04 nothing")
    elif damage == "names":
        np.savez(file, inputs=ones)
    elif damage == "kinds":
        np.savez(file, inputs=ones, logits=ones[:, 0, 0], labels=np.zeros(2, int))
    else:
        np.savez(file, inputs=np.array([{}]), logits=ones, labels=ones)
    with pytest.raises(AurepError, match=r"samples\.npz"):
        validate(bundle)


def test_a_model_that_does_not_run_fails_parity(tmp_path: Path) -> None:
    """Two inputs: countable, but nothing can be fed from one set of samples."""
    model = graphs.parse("g (float[N, 4] x, float[N, 4] z) => (float[N, 4] y) { s = Add(x, z) y = Relu(s) }")
    assert failed(validate(graphs.save(model, tmp_path / "two.onnx"), budget=4)) == {"parity"}


def test_localise_names_the_first_site_that_differs(bundle: Path) -> None:
    """Against an eager model whose site gives something else; here the graph's own reference stands in for it."""
    model = onnx.load(bundle / "model.onnx")
    sites = recover_sites(model)
    inputs = np.ones((2, *graphs.SHAPE), np.float32)
    assert check_localise(model, sites, inputs).measured == "after the last site"


def checkpoint(folder: Path, made: graphs.Hybrid) -> Path:
    folder.mkdir()
    tensors = {"act.mask": made.mask, "act.coefficients": made.coefficients}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_sites_equal_the_checkpoint(tmp_path: Path) -> None:
    made, other = graphs.hybrid(), graphs.hybrid(seed=1)
    run, recovered = checkpoint(tmp_path / "run", made), recover_sites(made.model)
    metadata = graphs.claim(made, checkpoint=sha256(run / "model.safetensors"))
    assert check_sites(recovered, metadata, run).passed
    wrong = check_sites(recovered, metadata, checkpoint(tmp_path / "other", other))
    assert "another checkpoint" in wrong.hint
    assert "mask" in wrong.hint
    swapped = graphs.Hybrid(made.model, made.mask, made.coefficients[::-1].copy())
    wrong = check_sites(recovered, graphs.claim(made), checkpoint(tmp_path / "swapped", swapped))
    assert "coefficients" in wrong.hint


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_run_without_a_checkpoint_is_wrong_usage(content: bytes | None, tmp_path: Path, bundle: Path) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(AurepError, match=r"safetensors"):
        validate(bundle, run=tmp_path)


@pytest.fixture
def toy(bundle: Path) -> tuple[Session, SimpleNamespace, InputClaim]:
    """A session, ten images it classifies all right but two, and how they become inputs."""
    model = onnx.load(bundle / "model.onnx")
    images = np.random.default_rng(3).integers(0, 256, (10, *graphs.SHAPE), dtype=np.uint8)
    claim = InputClaim(shape=graphs.SHAPE, mean=(0.5, 0.4, 0.3, 0.2), std=(0.1, 0.2, 0.3, 0.4))
    scaled = (images / 255 - np.reshape(claim.mean or (), (4, 1, 1))) / np.reshape(claim.std or (), (4, 1, 1))
    labels = graphs.reference(model, scaled.astype(np.float32)).argmax(1)
    labels[:2] = (labels[:2] + 1) % graphs.CLASSES
    return Session(model, "cpu"), SimpleNamespace(name="toy", x_test=images, y_test=labels), claim


@pytest.mark.parametrize(
    ("claimed", "teacher", "bounds", "passes"),
    [
        (None, None, Bounds(), True),
        (80.0, None, Bounds(), True),
        (91.0, None, Bounds(), False),
        (None, None, Bounds(minimum=80.0), True),
        (None, None, Bounds(minimum=80.5), False),
        (None, 85.0, Bounds(max_drop=5.0), True),
        (None, 85.0, Bounds(max_drop=4.9), False),
        (85.0, None, Bounds(max_drop=4.9), False),
        (None, None, Bounds(max_drop=50.0), False),
    ],
)
def test_accuracy_bounds(
    toy: tuple[Session, SimpleNamespace, InputClaim],
    claimed: float | None,
    teacher: float | None,
    bounds: Bounds,
    passes: bool,
) -> None:
    training = TrainingClaim(data="toy", test_accuracy=claimed, teacher_test_accuracy=teacher)
    check = check_accuracy(*toy, training, bounds)
    assert check.measured == 80.0
    assert check.passed is passes, check


def test_accuracy_through_validate(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, *graphs.SHAPE), dtype=np.uint8)
    toy = SimpleNamespace(name="toy", x_test=images, y_test=np.zeros(8, np.int64))
    monkeypatch.setattr("aurep.validators.checks.accuracy.load", lambda *_, **__: toy)
    report = validate(bundle, data="toy", min_accuracy=100.0)
    assert failed(report) == {"accuracy"}


def test_an_accuracy_bound_needs_data(bundle: Path) -> None:
    with pytest.raises(AurepError, match="--data"):
        validate(bundle, min_accuracy=50)


@pytest.mark.parametrize("bound", [{"min_accuracy": float("nan")}, {"max_accuracy_drop": float("inf")}])
def test_a_bound_that_nothing_can_break_is_refused(bundle: Path, bound: dict[str, float]) -> None:
    with pytest.raises(AurepError, match="finite number"):
        validate(bundle, data="toy", **bound)
