"""Which channels every layer of a network keeps at a width multiplier, followed through the network's graph.

At width multiplier w a convolution or linear map of C output channels keeps the first ceil(w C) of them (ordered
dropping: a narrower network is a part of every wider one). What follows from that is worked out node by node:

1. A layer's inputs are what its source kept. The layers that make the logits keep all their outputs.
2. A grouped convolution (depthwise included) keeps the groups whose inputs are kept, each whole, and their outputs.
3. Batch norm, hybrid activations, pooling and element-wise operations keep what their source kept. Operands of an
   addition or product must have kept the same; one of a single channel is broadcast.
4. Concatenation keeps its operands' channels side by side; flattening (C, H, W) keeps H W features per channel.

Anything else is refused with a sentence. Source of ordered dropping: Horvath et al., "FjORD: Fair and Accurate
Federated Learning under heterogeneous targets with Ordered Dropout", NeurIPS 2021; of several widths in one network:
Yu et al., "Slimmable Neural Networks", ICLR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from aurep.activation import HybridActivation
from aurep.errors import AurepError

Runs = tuple[tuple[int, int], ...]  # kept channels as half-open ranges, ascending and apart
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid)
_POOLINGS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_UNARY: tuple[type[nn.Module], ...] = (*_ACTIVATIONS, *_POOLINGS, nn.Identity, nn.Dropout, nn.Dropout2d)
_ELEMENTWISE = (  # functions and methods, by name
    {"add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "div", "truediv", "neg", "clamp"}
    | {"relu", "relu_", "relu6", "leaky_relu", "silu", "gelu", "sigmoid", "tanh", "hardswish", "hardsigmoid"}
    | {"avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
    | {"dropout", "dropout2d", "contiguous", "clone"}
)


@dataclass(frozen=True)
class Cut:
    """What one module keeps.

    Args:
        tensors: name of a parameter or buffer -> channels kept along its first axes.
        sizes: attributes that say the module's size, at the new one.
        own: the narrower network has tensors of its own here (batch norm).
    """

    tensors: dict[str, tuple[Runs, ...]]
    sizes: dict[str, Any]
    own: bool = False


def take(tensor: Tensor, axes: Sequence[Runs]) -> Tensor:
    """`tensor` at the channels kept along its first axes: a view wherever they are one range."""
    for axis, runs in enumerate(axes):
        parts = [tensor.narrow(axis, start, stop - start) for start, stop in runs]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts, axis)
    return tensor


def size(runs: Runs) -> int:
    return sum(stop - start for start, stop in runs)


def first(width_multiplier: float, channels: int) -> Runs:
    """The first ceil(width_multiplier * channels), in exact arithmetic of the decimal that it was written as."""
    return ((0, ceil(Fraction(str(width_multiplier)) * channels)),)


def plan_cuts(network: fx.GraphModule, example: Tensor, width_multiplier: float) -> dict[str, Cut]:
    """Module path -> what it keeps at `width_multiplier`, for every called module that has tensors.

    Raises:
        AurepError: names the operation that channels cannot be followed through.
    """
    with torch.no_grad():
        ShapeProp(network).propagate(example)
    follow = _Follow(network, width_multiplier)
    for node in network.graph.nodes:
        follow.visit(node)
    return follow.cuts


class _Follow:
    """The walk over the graph: `kept` per node (None: no tensor), `cuts` per module."""

    def __init__(self, network: fx.GraphModule, width_multiplier: float) -> None:
        self.network, self.width_multiplier = network, width_multiplier
        self.kept: dict[fx.Node, Runs | None] = {}
        self.cuts: dict[str, Cut] = {}
        self.heads = _heads(network)

    def visit(self, node: fx.Node) -> None:
        if node.op == "output" or "tensor_meta" not in node.meta:
            self.kept[node] = None
            return
        meta = node.meta["tensor_meta"]
        if node.op == "get_attr" or not isinstance(meta, TensorMetadata) or len(meta.shape) < 2:
            raise self._refusal(node, "its channels cannot be followed")
        if node.op == "placeholder":
            self.kept[node] = ((0, meta.shape[1]),)
        elif node.op == "call_module":
            self.kept[node] = self._module(node, self.network.get_submodule(str(node.target)))
        else:
            name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
            self.kept[node] = self._operation(node, name)

    def _module(self, node: fx.Node, module: nn.Module) -> Runs:
        if isinstance(module, nn.Flatten):
            return self._flattened(node)
        if type(module) in _UNARY:
            return self._agreed(node)
        runs = self._agreed(node, sources_only=True)
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            cut, runs = self._convolution(node, module, runs)
        elif isinstance(module, nn.Linear) and len(_shape(node)) == 2:
            out = self._outputs(node, module.out_features)
            sizes = {"in_features": size(runs), "out_features": size(out)}
            cut, runs = Cut({"weight": (out, runs), "bias": (out,)}, sizes), out
        elif isinstance(module, _BATCH_NORMS):
            names = ["weight", "bias", "running_mean", "running_var"]
            cut = Cut(dict.fromkeys(names, (runs,)), {"num_features": size(runs)}, own=True)
        elif isinstance(module, HybridActivation):
            names = ["mask", "alpha", "coefficients"]
            cut = Cut(dict.fromkeys(names, (runs,)), {"shape": (size(runs), *module.shape[1:])})
        else:
            raise self._refusal(node, f"a {type(module).__name__} is none of the layers whose channels can be dropped")
        if self.cuts.setdefault(str(node.target), cut) != cut:
            raise self._refusal(node, "it is called more than once, with different channels")
        return runs

    def _convolution(self, node: fx.Node, conv: nn.Conv1d | nn.Conv2d, runs: Runs) -> tuple[Cut, Runs]:
        sizes = {"in_channels": size(runs)}
        if conv.groups == 1:
            out = self._outputs(node, conv.out_channels)
            axes: tuple[Runs, ...] = (out, runs)
        else:
            inside, outside = conv.in_channels // conv.groups, conv.out_channels // conv.groups
            if any(edge % inside for run in runs for edge in run):
                raise self._refusal(node, f"its groups of {inside} channels would be cut in two")
            out = tuple((start // inside * outside, stop // inside * outside) for start, stop in runs)
            if str(node.target) in self.heads and size(out) != conv.out_channels:
                raise self._refusal(node, "it makes the logits from groups of channels, which would drop classes")
            axes = (out,)
            sizes["groups"] = size(runs) // inside
        return Cut({"weight": axes, "bias": (out,)}, {**sizes, "out_channels": size(out)}), out

    def _outputs(self, node: fx.Node, channels: int) -> Runs:
        return ((0, channels),) if str(node.target) in self.heads else first(self.width_multiplier, channels)

    def _operation(self, node: fx.Node, name: str) -> Runs:
        if name in _ELEMENTWISE:
            return self._agreed(node)
        if name == "mean" and _spatial(node):
            return self._agreed(node)
        if name in ("cat", "concat") and (node.args[1:] or tuple(node.kwargs.values())) == (1,):
            return self._side_by_side(node)
        if name in ("flatten", "view", "reshape"):
            return self._flattened(node)
        raise self._refusal(node, "it is none of the operations that channels can be followed through")

    def _agreed(self, node: fx.Node, sources_only: bool = False) -> Runs:
        """What all operands kept; operands of one channel are broadcast."""
        operands = [source for source in node.all_input_nodes if self.kept[source] is not None]
        channels = max(_shape(source)[1] for source in operands)
        wide = [source for source in operands if _shape(source)[1] == channels]
        ranks = {len(_shape(source)) for source in operands}
        kept = {self.kept[source] for source in wide}
        narrow = any(_shape(source)[1] not in (1, channels) for source in operands)
        if len(kept) != 1 or len(ranks) != 1 or narrow or not (sources_only or _shape(node)[1] == channels):
            raise self._refusal(node, "its operands would keep different channels")
        return kept.pop() or ()

    def _side_by_side(self, node: fx.Node) -> Runs:
        runs: list[tuple[int, int]] = []
        offset = 0
        operands: Any = node.args[0]
        for source in operands:
            for start, stop in self.kept[source] or ():
                joined = runs and runs[-1][1] == offset + start
                begin = runs.pop()[0] if joined else offset + start
                runs.append((begin, offset + stop))
            offset += _shape(source)[1]
        return tuple(runs)

    def _flattened(self, node: fx.Node) -> Runs:
        """Rule 4, for (N, C, ...) to (N, C * ...) only, however it is written."""
        (source,) = (source for source in node.all_input_nodes if self.kept[source] is not None)
        (batch, channels, *rest), out = _shape(source), _shape(node)
        if out != (batch, channels * prod(rest)) or not _any_length(node):
            raise self._refusal(node, "it reshapes to something else than (N, -1)")
        return tuple((start * prod(rest), stop * prod(rest)) for start, stop in self.kept[source] or ())

    def _refusal(self, node: fx.Node, reason: str) -> AurepError:
        what = str(node.target) if node.op == "call_module" else node.format_node()
        return AurepError(
            f"the network cannot be trained at width multiplier {self.width_multiplier:g}, since channels cannot be "
            f"dropped at {what!r}: {reason}; leave search.width_multipliers at [1.0] for this model."
        )


def _heads(network: fx.GraphModule) -> set[str]:
    """The layers that the output is made by, with no other layer in between."""
    found: set[str] = set()
    todo = [node for node in network.graph.nodes if node.op == "output"]
    seen = set(todo)
    while todo:
        node = todo.pop()
        layer = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            found.add(str(node.target))
            continue
        todo += [source for source in node.all_input_nodes if source not in seen]
        seen.update(node.all_input_nodes)
    return found


def _spatial(node: fx.Node) -> bool:
    """Whether a mean is over axes behind the channels only."""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    axes = [given] if isinstance(given, int) else given
    rank = len(_shape(node.all_input_nodes[0]))
    return bool(axes) and all(isinstance(axis, int) and axis % rank >= 2 for axis in axes)


def _any_length(node: fx.Node) -> bool:
    """Whether a reshaping leaves the number of features open, which a width multiplier changes."""
    sizes: Any = node.kwargs.get("shape", node.args[1:])
    if sizes and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name not in ("view", "reshape") or -1 in sizes[1:]


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)
