"""Constants pushed forward: the same network, the same claims, a pass over the activations less for each site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from aurep import AurepError, fit_polynomials, prepare, relu_sites, set_mask
from aurep.exporters import export, find_target
from aurep.models import build_model
from aurep.validators import validate
from aurep.validators.inspection import inspect
from aurep.validators.relu_count import count as count_relus
from aurep.validators.sites.recovery import pointwise, recover_sites
from tests.exporters.exporting import (
    NET,
    Array,
    assert_scaled,
    example,
    ops,
    passed,
    randomise,
    run,
    small_net,
    variable,
)
from tests.exporters.test_export_models import DEEP, NETWORKS, eager
from tests.exporters.test_export_sites import hybrid

PUSHED = find_target("onnxruntime", push_constants=True)
SHAPE = (3, 4, 4)  # of every tensor but the last few, so that any can be wired to any
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


class Growing:
    """A graph as it grows, and the value of its last tensor by torch and numpy in float64."""

    def __init__(self, degree: int, density: float, by_element: bool, seed: int) -> None:
        self.random, self.numbers = np.random.default_rng(seed), count()
        self.degree, self.density, self.by_element = degree, density, by_element
        self.x = self.random.normal(size=(2, *SHAPE)).astype(np.float32)
        self.input = variable("input", list(self.x.shape))
        self.nodes: list[gs.Node] = []
        self.tensors: list[tuple[gs.Tensor, Tensor]] = [(self.input, torch.from_numpy(self.x).double())]

    def constant(self, *shape: int) -> tuple[gs.Constant, Tensor]:
        values = (self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        return gs.Constant(f"w{next(self.numbers)}.weight", values), torch.from_numpy(values).double()

    def add(self, op: str, value: Tensor, *inputs: gs.Tensor, domain: str | None = None, **attrs: Any) -> None:
        result = variable(f"t{next(self.numbers)}", list(value.shape))
        self.nodes.append(gs.Node(op, "", attrs, list(inputs), [result], domain=domain))
        self.tensors.append((result, value))

    def grow(self, kind: str, i: int, j: int) -> None:
        """A node of `kind` that reads the tensors `i` and `j`, of as many as there are."""
        STEPS[kind](self, self.tensors[i % len(self.tensors)], self.tensors[j % len(self.tensors)])

    def site(self, tensor: gs.Tensor, value: Tensor) -> None:
        shape = tuple(value.shape[1:])
        mask = self.random.random(shape) < self.density
        rows = shape if self.by_element else shape[:1]
        table = (self.random.normal(size=(*rows, self.degree + 1)) * (1, 1, 0.1)[: self.degree + 1]).astype(np.float32)
        coefficients = table if self.degree else None
        inputs = [tensor, gs.Constant(f"m{next(self.numbers)}", mask)]
        inputs += [gs.Constant(f"c{next(self.numbers)}", table)] if self.degree else []
        after = torch.from_numpy(hybrid(value.numpy(), mask, coefficients))
        name = f"act{next(self.numbers)}"
        self.add("HybridActivation", after, *inputs, domain="ai.aurep", site=name, degree=self.degree)

    def finished(self) -> tuple[gs.Graph, Array]:
        """A strided convolution, the mean over positions, a linear layer, a site and another linear layer."""
        self.grow("strided", -1, -1)
        tensor, value = self.tensors[-1]
        self.add("GlobalAveragePool", value.mean((2, 3), keepdim=True), tensor)
        self.add("Flatten", value.mean((2, 3)), self.tensors[-1][0], axis=1)
        self.grow("linear", -1, -1)
        self.site(*self.tensors[-1])
        self.grow("linear", -1, -1)
        tensor, value = self.tensors[-1]
        return gs.Graph(self.nodes, [self.input], [tensor], opset=18), value.numpy()


Pair = tuple[gs.Tensor, Tensor]


def _conv(net: Growing, x: Pair, groups: int = 1, stride: int = 1, bias: bool = True) -> None:
    weight, offset = net.constant(3, 3 // groups, 3, 3), net.constant(3)
    value = F.conv2d(x[1], weight[1], offset[1] if bias else None, stride, 1, groups=groups)
    inputs = (x[0], weight[0], offset[0])[: 2 + bias]
    net.add("Conv", value, *inputs, group=groups, strides=[stride] * 2, dilations=[1, 1], **CONV)


def _scale(net: Growing, x: Pair) -> None:
    """A batch norm that could not be folded."""
    factor, offset = net.constant(3, 1, 1), net.constant(3, 1, 1)
    net.add("Mul", x[1] * factor[1], x[0], factor[0])
    net.add("Add", net.tensors[-1][1] + offset[1], net.tensors[-1][0], offset[0])


def _concat(net: Growing, x: Pair, y: Pair) -> None:
    weight = net.constant(3, 6, 1, 1)
    net.add("Concat", torch.cat([x[1], y[1]], 1), x[0], y[0], axis=1)
    both = net.tensors.pop()  # of another shape than the others
    net.add("Conv", F.conv2d(both[1], weight[1]), both[0], weight[0], kernel_shape=[1, 1])


def _linear(net: Growing, x: Pair) -> None:
    weight, offset = net.constant(3, 3), net.constant(3)
    net.add("Gemm", x[1] @ weight[1].T + offset[1], x[0], weight[0], offset[0], transB=1)


STEPS: dict[str, Callable[[Growing, Pair, Pair], None]] = {
    "site": lambda net, x, _: net.site(*x),
    "conv": lambda net, x, _: _conv(net, x),
    "depthwise": lambda net, x, _: _conv(net, x, groups=3, bias=False),
    "strided": lambda net, x, _: _conv(net, x, stride=2),
    "scale": lambda net, x, _: _scale(net, x),
    "add": lambda net, x, y: net.add("Add", x[1] + y[1], x[0], y[0]),
    "product": lambda net, x, y: net.add("Mul", x[1] * y[1] / 1, x[0], y[0]),
    "concat": _concat,
    "maxpool": lambda net, x, _: net.add("MaxPool", F.max_pool2d(x[1], 3, 1, 1), x[0], **CONV),
    "avgpool": lambda net, x, _: net.add("AveragePool", F.avg_pool2d(x[1], 3, 1, 1), x[0], count_include_pad=1, **CONV),
    "linear": lambda net, x, _: _linear(net, x),
}
# Most of what a network is made of twice, and either of a node's inputs most often the newest tensor.
KINDS = ["site", "site", "conv", "conv", "add", "add", "depthwise", "scale", "avgpool", "concat", "maxpool", "product"]
steps = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([-1, -1, -2, 0]), st.integers(0, 9)), max_size=9)


def grown(plan: Sequence[tuple[str, int, int]], *settings_: Any) -> tuple[Array, gs.Graph, Array]:
    net = Growing(*settings_)
    for step in [("conv", 0, 0), ("site", -1, 0), *plan]:
        net.grow(*step)
    return net.x, *net.finished()


@given(steps, st.sampled_from([0, 1, 2]), st.sampled_from([0.0, 0.3, 1.0]), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_network_stays_what_it_is(
    plan: list[tuple[str, int, int]], degree: int, density: float, by_element: bool, seed: int
) -> None:
    x, graph, expected = grown(plan, degree, density, by_element, seed)
    pushed = passed(graph, PUSHED)
    assert_scaled(run(pushed, x), expected, NET)
    plain = passed(grown(plan, degree, density, by_element, seed)[1], "onnxruntime")
    found, wanted = recover_sites(pushed), recover_sites(plain)
    assert found.keys() == wanted.keys()
    for name, site in wanted.items():
        assert np.array_equal(found[name].mask, site.mask), name
        assert found[name].coefficients.tobytes() == site.coefficients.tobytes(), name
    ours, theirs = count_relus(pushed, pointwise(found)), count_relus(plain, pointwise(wanted))
    assert (ours.total, ours.pooling) == (theirs.total, theirs.pooling)


def test_a_chain_of_sites_adds_no_constant_terms() -> None:
    """Conv and site, three times: no addition but Horner's inner ones, and one of all constants at the end."""
    plan = [("conv", -1, 0), ("site", -1, 0)] * 2
    model = passed(grown(plan, 2, 0.3, False, 0)[1], PUSHED)
    constant = {tensor.name for tensor in model.graph.initializer}
    added = []
    for node in model.graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
        elif node.op_type == "Add":
            added.append(node.name.rpartition("/")[2])
    assert added == ["Add_c1"] * 4 + ["Add_0"]


@pytest.mark.parametrize("degree", [1, 2])
def test_nothing_is_pushed_ahead_of_a_max_pooling(degree: int) -> None:
    """Validators tell it from a ReLU by its neighbours being alike."""
    plan = [("conv", -1, 0), ("site", -1, 0), ("maxpool", -1, 0), ("conv", -1, 0), ("site", -1, 0)]
    sites = recover_sites(passed(grown(plan, degree, 0.3, False, 0)[1], PUSHED))
    assert [site.moved is not None for site in sites.values()] == [False, False, True, True]
    assert [site.even for site in sites.values()] == [True, True, False, False]


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_network_is_the_eager_one(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(prepare(NETWORKS[name]().eval(), example()).eval(), seed=4)
    file = export(model, example(1), tmp_path / "m.onnx", "onnxruntime", push_constants=True)
    for rows in (1, 3):
        x = example(rows, seed=8)
        assert_scaled(run(file, x.numpy()), eager(model, x), NET)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, np.ndarray]:
    """A bundle of a narrow ResNet-18, its samples and its eager logits."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 16, 16)
    model = prepare(build_model("resnet18", num_classes=4, width=4, input_size=16).eval(), x[:1])
    for site in relu_sites(model):
        set_mask(model, site.name, torch.rand(site.shape) < 0.3)
    fit_polynomials(model, [x])
    fit_polynomials(model, [x])
    folder, samples = tmp_path_factory.mktemp("push") / "b", (x.numpy(), np.zeros(6, np.int64))
    export(model, x[:1], folder, "onnxruntime", push_constants=True, samples=samples)
    return folder, x, eager(model, x)


def test_a_real_network_is_validated(resnet: tuple[Path, Tensor, np.ndarray]) -> None:
    folder, x, logits = resnet
    assert_scaled(run(folder / "model.onnx", x.numpy()), logits, DEEP)
    report = validate(folder)
    assert report.passed, report
    assert "moved out of 16 sites" in next(check.hint for check in report.checks if check.name == "sites")
    assert inspect(folder).relu_count == report.relu_total == sum(row["elements"] for row in report.sites)


def test_a_runtime_computes_the_constants_when_it_loads_the_file(
    resnet: tuple[Path, Tensor, np.ndarray], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    file = resnet[0] / "model.onnx"
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    written, optimised = onnx.load(file), onnx.load(tmp_path / "optimised.onnx")
    stored = {tensor.name for tensor in optimised.graph.initializer}
    assert [node.name for node in optimised.graph.node if stored.issuperset(node.input)] == []
    assert ops(optimised).count("Conv") < ops(written).count("Conv")


def test_only_the_max_form_can_push() -> None:
    with pytest.raises(AurepError, match=r"target onnx keeps its constants in the sites; .* with target onnxruntime"):
        find_target("onnx", push_constants=True)
    assert not find_target("onnxruntime").push


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model, paths = small_net(), (tmp_path / "a.onnx", tmp_path / "b.onnx")
    files = (export(model, example(), path, "onnxruntime", push_constants=True) for path in paths)
    first, second = (file.read_bytes() for file in files)
    assert first == second
