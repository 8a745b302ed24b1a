"""Small networks, a one-site graph without torch's exporter, and the tolerances of the exporter tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from aurep import HybridActivation, prepare, relu_sites, set_mask
from aurep.exporters.passes import run_passes
from aurep.exporters.pipeline import to_proto
from aurep.exporters.targets import TARGETS, Target

Array = NDArray[np.float32]

# One site: three fp32 roundings of terms within 1e3, each 6e-8 relative, against the same formula in float64.
SITE = 1e-6
# Small nets, at most ten layers of sums over a hundred terms; scaled by the largest logit. Folding and summation order
# change every rounding: a few 1e-6. A wrong mask or constant shows at 1e-2.
NET = 2e-5


def run(model: onnx.ModelProto | Path, x: Array) -> Array:
    """Logits by the ONNX reference evaluator, which shares no code with the runtime that the exporter checks with."""
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    (logits,) = ReferenceEvaluator(proto).run(None, {"input": x})
    return np.asarray(logits, dtype=np.float32)


def assert_scaled(found: Array, expected: NDArray[Any], tolerance: float) -> None:
    assert found.shape == expected.shape
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    assert float(np.abs(found - expected).max(initial=0)) <= tolerance * scale


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def variable(name: str, shape: list[int | str] | None = None, dtype: Any = np.float32) -> gs.Variable:
    return gs.Variable(name, dtype=dtype, shape=shape)


def one_site(
    mask: NDArray[np.bool_],
    coefficients: Array | None,
    degree: int,
    target: Target | str = "onnx",
    batch: int | str = "batch",
) -> onnx.ModelProto:
    """The graph of a lone site named `act`, as the passes make it."""
    shape = [batch, *mask.shape]
    x, y = variable("input", shape), variable("y", shape)
    inputs = [x, gs.Constant("mask", mask)] + ([gs.Constant("co", coefficients)] if coefficients is not None else [])
    attributes = {"site": "act", "degree": degree}
    node = gs.Node("HybridActivation", "", attributes, inputs, [y], domain="ai.aurep")
    return passed(gs.Graph([node], [x], [y], opset=18), target)


def passed(graph: gs.Graph, target: Target | str = "onnx") -> onnx.ModelProto:
    """`graph` through all passes, checked."""
    chosen = TARGETS[target] if isinstance(target, str) else target
    graph.name = "aurep"
    run_passes(graph, chosen)
    model = to_proto(graph, chosen)
    onnx.checker.check_model(model, full_check=True)
    return model


def randomise(model: nn.Module, seed: int, density: float = 0.5) -> nn.Module:
    """Random masks and coefficients at every site, and batch norms that are no identities."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            with torch.no_grad():
                for tensor, low, high in _statistics(module):
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
        if isinstance(module, HybridActivation) and module.coefficients is not None:
            module.set_coefficients(torch.rand(module.coefficients.shape, generator=generator) - 0.5)
    for site in sites_or_none(model):
        set_mask(model, site.name, torch.rand(site.shape, generator=generator) < density)
    return model


def sites_or_none(model: nn.Module) -> list[Any]:
    return relu_sites(model) if any(isinstance(m, HybridActivation) for m in model.modules()) else []


def _statistics(module: nn.BatchNorm1d | nn.BatchNorm2d) -> list[tuple[Tensor, float, float]]:
    assert module.running_mean is not None
    assert module.running_var is not None
    parts = [(module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0)]
    return parts + ([(module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5)] if module.affine else [])


class Block(nn.Module):
    """A pre- or post-activation residual block with a strided shortcut."""

    def __init__(self, inside: int, out: int, stride: int, pre: bool = False, groups: int = 1) -> None:
        super().__init__()
        self.pre = pre
        self.bn1 = nn.BatchNorm2d(inside if pre else out)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False, groups=groups)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inside, out, 1, stride, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            y = self.relu(self.bn1(x))
            return self.conv2(self.relu(self.bn2(self.conv1(y)))) + self.short(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.short(x))


def classifier(*body: nn.Module, channels: int = 4, classes: int = 3) -> nn.Sequential:
    """`body` on (N, 2, 6, 6) inputs, then the mean over positions and a linear layer."""
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def small_net(seed: int = 0, degree: int = 2, density: float = 0.5, coefficients: str = "channel") -> nn.Module:
    """A prepared residual network of two sites on (N, 2, 6, 6), with random masks and coefficients, in eval mode."""
    torch.manual_seed(seed)
    net = classifier(Block(2, 4, 2))
    return randomise(prepare(net, example(), degree=degree, coefficients=coefficients).eval(), seed, density)


def example(rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(rows, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def elided(model: onnx.ModelProto) -> str:
    """The graph as text, without metadata and without the values of float tensors."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:], bare.graph.value_info[:]
    text = onnx.printer.to_text(bare)
    return re.sub(r"(float(?:\[[^\]]*\])? \S+) =\s+\{[^}]*\}", r"\1 = {...}", text)
