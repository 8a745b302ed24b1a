"""An honest bundle passes every check; each way of tampering with it fails the check that is there for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.metadata import InputClaim, SiteClaim
from aurep.validators import validate, validation
from aurep.validators.checks.inputs import answerable
from aurep.validators.checks.localise import check_localise
from aurep.validators.checks.parity import difference, spread_of
from aurep.validators.checks.tolerances import PARITY_SCALED
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


@pytest.mark.parametrize(("form", "target", "op"), [("mask", "mask", "Relu"), ("max", "onnxruntime", "Max")])
@pytest.mark.parametrize("source", ["h", "x"])
def test_a_relu_that_is_only_named_like_a_site_counts(
    form: str, target: str, op: str, source: str, tmp_path: Path
) -> None:
    """What the target forgives is what its sites need."""
    made = graphs.hybrid(form)
    made.model.graph.node.append(onnx.helper.make_node("Relu", [source], ["spare"], name="act/Spare"))
    compared = {"Relu": 288} if op == "Relu" else {"Max": 144, "Relu": 144}
    report = validate(graphs.bundle(tmp_path / "b", made, graphs.claim(made, target=target, comparisons=compared)))
    assert "relu-count" in failed(report)


def test_a_linear_node_is_no_share_of_the_activations(tmp_path: Path) -> None:
    """Whatever its name: half of the 144 are allowed, not of 288."""
    model = graphs.body('k = Constant<value_float = 2.0>() ["a/b"] h = Mul(x, k) ["act"] y = Relu(h)')
    report = validate(graphs.save(model, tmp_path / "m.onnx"), budget="50%")
    assert (report.relu_total, report.relu_budget) == (144, 72)
    assert failed(report) == {"relu-count"}


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


def test_a_key_that_occurs_twice_is_refused(bundle: Path) -> None:
    """Readers differ in which of the two they take."""
    file = bundle / "budget.json"
    file.write_text(file.read_text().replace('"relu_count": 20', '"relu_count": 20, "relu_count": 0', 1))
    assert "names each key once" in hint(validate(bundle), "structure")
    model = onnx.load(bundle / "model.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == "aurep.comparisons")
    entry.value = '{"Relu":0,"Relu":20}'
    graphs.save(model, bundle / "model.onnx")
    assert "names each key once" in hint(validate(bundle), "structure")


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


def with_huge_logit(model: onnx.ModelProto) -> None:
    """A constant of a million in front of class 0, whatever the image."""
    graphs.add_initializers(model, much=np.array([1e6, 0, 0, 0, 0], np.float32))
    next(node for node in model.graph.node if node.name == "head").output[0] = "free"
    model.graph.node.append(onnx.helper.make_node("Add", ["free", "much"], ["y"], name="much"))


def stored_logits(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    stored = dict(np.load(folder / "samples.npz"))
    stored["logits"] = change(stored["logits"]).astype(np.float32)
    np.savez(folder / "samples.npz", **stored)


def test_one_huge_logit_hides_no_error_of_the_others(bundle: Path) -> None:
    graphs.tamper(bundle, with_huge_logit)
    stored_logits(bundle, lambda a: a + np.array([1e6, 0, 0, 0, 0]))
    assert "parity" not in failed(validate(bundle))
    stored_logits(bundle, lambda a: a * np.array([1, 1.001, 1, 1, 1]))
    assert "parity" in failed(validate(bundle))


def test_what_a_weight_moves_on_the_samples_is_not_measured_by_other_images(bundle: Path) -> None:
    """Drawn images may move the logits twice as much; two flipped bytes passed that moved them beyond the tolerance."""
    exact = np.load(bundle / "samples.npz")["logits"]
    beyond = np.zeros_like(exact)
    beyond[0, 1] = 1.2 * PARITY_SCALED * np.ptp(exact[:, 1]) / 2
    stored_logits(bundle, lambda a: a + beyond / 1.5)
    assert "parity" not in failed(validate(bundle))
    stored_logits(bundle, lambda a: exact + beyond)
    assert "parity" in failed(validate(bundle))


def test_one_huge_logit_hides_no_rounding(tmp_path: Path) -> None:
    step = """d = Constant<value_float = 1e-8>() o = Constant<value_float = 1.0>() u = Constant<value_float = 1e8>()
        t = Mul(x, d) a = Add(t, o) b = Sub(a, o) s = Mul(b, u) v = Mul(s, x) f = Flatten(v)
        g = Constant<value_floats = [1e9]>() z = Constant<value_float = 0.0>() p = Mul(x, z) q = Flatten(p)
        i = Constant<value_ints = [0]>() w = Gather<axis = 1>(q, i) k = Add(w, g) y = Concat<axis = 1>(f, k)"""
    report = validate(graphs.save(graphs.body(step, out="N, 145"), tmp_path / "m.onnx"), budget=10**6)
    assert "rounding" in failed(report)


def test_as_many_huge_logits_as_others_hide_no_rounding(tmp_path: Path) -> None:
    """1000 + q keeps four bits of q, which is some 1e-4; the other class is some 1e9."""
    model = graphs.parse("""g (float[N, 1, 4, 4] x) => (float[N, 2] y)
 <int64[1] axis = {1}, float huge = {1e9}, float small = {1e-4}, float o = {1000.0}> {
 f = Flatten(x) s = ReduceSum<keepdims = 1>(f, axis) k = Mul(huge, s) q = Mul(s, small)
 a = Add(q, o) b = Sub(a, o) y = Concat<axis = 1>(k, b) }""")
    onnx.save(model, tmp_path / "model.onnx")
    assert failed(validate(tmp_path / "model.onnx", budget=0)) == {"rounding"}


def test_logits_that_overflow_are_not_said_to_hang_on_rounding(tmp_path: Path) -> None:
    far = "c = Constant<value_float = 1e30>() h = Mul(x, c) y = Mul(h, h)"
    report = validate(graphs.save(graphs.body(far), tmp_path / "m.onnx"), budget=0)
    assert failed(report) == {"rounding"}
    assert "infinite or no number" in hint(report, "rounding")


@pytest.mark.parametrize(("overflowing", "out"), [(0, ""), (4, "On 8 of 16"), (6, "On 24 of 32"), (7, None)])
def test_other_images_are_drawn_for_those_on_which_a_network_overflows(
    overflowing: int, out: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep networks of polynomials overflow far from the images they know: no fault of the file's, unless on most."""
    bright = """m = ReduceMean<axes = [1, 2, 3]>(x) c = Constant<value_float = 3e38>() h = Mul(m, c) z = Div(h, c)
        y = Add(x, z)"""
    file = graphs.save(graphs.body(bright), tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(8, *graphs.SHAPE)).astype(np.float32)
    images[:overflowing] += 2
    monkeypatch.setattr("aurep.validators.checks.inputs.drawn", lambda *_: images)
    report = validation.validate(file, budget=0)
    assert failed(report) == ({"rounding"} if out is None else set())
    notes = [note for note in report.notes if "images drawn at random" in note]
    assert [note.split(" images")[0] for note in notes] == ([out] if out else [])
    session = Session(onnx.load(file), "cpu")
    assert answerable(images, session, lambda x: x, []).all(), "what overflows in the graph alone is to be found"


def test_images_on_which_a_network_nearly_overflows_say_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """m^4096 multiplies a relative error by 4096 where it rules, as a dozen squares in a row do in a deep network."""
    squares = " ".join(f"m{k + 1} = Mul(m{k}, m{k})" for k in range(12))
    power = f"m0 = ReduceMean<axes = [1, 2, 3]>(x) {squares} y = Add(x, m12)"
    file = graphs.save(graphs.body(power), tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(8, *graphs.SHAPE)).astype(np.float32)
    images -= images.mean(axis=(1, 2, 3), keepdims=True)
    images[:4] += 1.005  # to the power of 4096 some 7e8
    session = Session(onnx.load(file), "cpu")
    assert np.isfinite(session.run(images)).all()
    assert answerable(images, session, None, []).tolist() == [False] * 4 + [True] * 4
    assert answerable(images, session, lambda x: x, []).all(), "what goes wrong in the graph alone is to be found"
    monkeypatch.setattr("aurep.validators.checks.inputs.drawn", lambda *_: images)
    report = validation.validate(file, budget=0)
    assert report.passed, report
    assert [note for note in report.notes if "nearly does" in note]
    monkeypatch.setattr("aurep.validators.checks.inputs.drawn", lambda *_: images[:4])
    assert failed(validation.validate(file, budget=0)) == {"rounding"}


@pytest.mark.parametrize("classes", [1, 4])
def test_a_logit_that_images_do_not_move_is_well_conditioned(classes: int, tmp_path: Path) -> None:
    constant = f"z = Constant<value_floats = {[7.0] * classes}>() n = ReduceMean<axes = [1, 2, 3], keepdims = 0>(x)"
    lines = f"{constant} k = Constant<value_float = 0.0>() o = Mul(n, k) a = Constant<value_ints = [1]>()"
    model = graphs.parse(f"""g (float[N, 4, 6, 6] x) => (float[N, {classes}] y)
 {{ {lines} u = Unsqueeze(o, a) y = Add(u, z) }}""")
    onnx.save(model, tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(3, 4, 6, 6)).astype(np.float32)
    assert answerable(images, Session(onnx.load(tmp_path / "m.onnx"), "cpu"), None, []).all()


def test_an_image_is_far_from_the_certificate_only_where_graph_and_model_say_so(tmp_path: Path) -> None:
    """What leaves it in the graph alone is to be found, and what leaves it in the model alone."""
    session = Session(onnx.load(graphs.save(graphs.body("y = Mul(x, x)"), tmp_path / "m.onnx")), "cpu")
    images = np.random.default_rng(0).normal(size=(3, *graphs.SHAPE)).astype(np.float32)
    images[1:, 0, 0, 0] = 9.0

    def graph(image: NDArray[Any]) -> float:
        return 5.0 if image.max() == 9 else 0.9

    def model(image: NDArray[Any]) -> float:
        return 5.0 if np.array_equal(image[0], images[2]) else 0.9

    assert answerable(images, session, None, [graph]).tolist() == [True, False, False]
    assert answerable(images, session, None, [graph, model]).tolist() == [True, True, False]
    assert answerable(images, session, None, [model, graph]).tolist() == [True, True, False]


def test_samples_that_show_nothing_are_not_all_that_is_looked_at(tmp_path: Path) -> None:
    """On images of zeros a step made of rounding stands still."""
    made = graphs.hybrid()
    lines = """["step/d"] d = Mul(x, tiny) ["step/a"] a = Add(d, one) ["step/b"] b = Sub(a, one)
        ["step/s"] w = Mul(b, huge)"""
    extra = graphs.body(f"{lines} y = Mul(w, w)").graph.node
    conv = next(node for node in made.model.graph.node if node.name == "conv")
    conv.input[0] = "w"
    for index, node in enumerate(list(extra)[:4]):
        made.model.graph.node.insert(index, node)
    graphs.add_initializers(made.model, tiny=np.float32([1e-8]), one=np.float32([1]), huge=np.float32([1e8]))
    folder = graphs.bundle(tmp_path / "b", made, graphs.claim(made))
    zeros = np.zeros((6, *graphs.SHAPE), np.float32)
    np.savez(folder / "samples.npz", inputs=zeros, logits=graphs.reference(made.model, zeros), labels=np.zeros(6, int))
    assert "rounding" in failed(validate(folder))


def test_a_graph_that_leaves_nothing_of_its_images_has_no_spread() -> None:
    """As a Slice up to the last image does at a batch of one."""
    empty = np.zeros((0, 3), np.float32)
    assert spread_of(empty).tolist() == [0.0, 0.0, 0.0]
    assert difference(empty, empty).scaled == 0


def test_a_class_that_images_hardly_move_is_not_held_to_its_rounding() -> None:
    """Of logits of size 1 that move by 1e-4, an error of 3e-8 is the last bit of fp32."""
    logits = np.array([[1.0, -1.0], [1.0001, -1.0001]], np.float32)
    off = logits + np.float32(1.2e-7)
    assert difference(off, logits).scaled <= PARITY_SCALED
    assert difference(logits + np.float32(1e-4), logits).scaled > PARITY_SCALED
