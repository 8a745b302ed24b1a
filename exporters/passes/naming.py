"""Names that mean something and are the same on every export.

1. Nodes of a site have their names: `layer1.0.relu/Relu`.
2. A node with a parameter is named after its module: `layer1.0.conv1/Conv`; a second call gets `:1`.
3. Any other node is named by its operator and a running number: `Add_0`, `MaxPool_0`.
4. A tensor is named after the node that makes it; a constant without a name of its own `<node>/<role>`.

The graph's input and output stay `input` and `logits`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from aurep.exporters.targets import Target

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
_ROLES = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "Reshape": ("", "shape"),
    "Gather": ("", "indices"),
    "Clip": ("", "min", "max"),
    "Pad": ("", "pads", "value", "axes"),
    "Split": ("", "split"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
}


def name_everything(graph: gs.Graph, target: Target) -> None:
    taken = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
    counters: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    constants: set[int] = set()
    for node in graph.nodes:
        node.name = _unique(_node_name(node, counters), taken)
    for node in graph.nodes:
        for slot, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in constants:
                constants.add(id(tensor))
                tensor.name = _unique(_constant_name(node, slot, tensor), taken)
        for slot, tensor in enumerate(node.outputs):
            if tensor.name and not any(tensor is output for output in graph.outputs):
                tensor.name = node.name if slot == 0 else _unique(f"{node.name}.{slot}", taken)


def _node_name(node: gs.Node, counters: defaultdict[str, Iterator[int]]) -> str:
    if node.name:
        return str(node.name)
    owner = owner_of(node)
    return f"{owner}/{node.op}" if owner else f"{node.op}_{next(counters[node.op])}"


def owner_of(node: gs.Node) -> str:
    """Module path of the node's parameter: `layer1.0.conv1` of `layer1.0.conv1.weight`."""
    weight = node.inputs[1] if node.op in _WEIGHTED and len(node.inputs) > 1 else None
    return weight.name.rpartition(".")[0] if isinstance(weight, gs.Constant) else ""


def _constant_name(node: gs.Node, slot: int, tensor: gs.Constant) -> str:
    roles = _ROLES.get(node.op, ())
    role = roles[slot] if slot < len(roles) else f"constant_{slot}"
    owner = owner_of(node)
    if node.op in _WEIGHTED and owner:
        return f"{owner}.{role}"
    given = str(tensor.name)
    folder = given.rpartition("/")[0]
    of_site = bool(folder) and str(node.name).startswith(f"{folder}/")
    of_module = "." in given and "/" not in given  # a parameter of the model that stands alone
    if of_site or of_module:
        return given
    return f"{node.name}/{role}"


def _unique(name: str, taken: set[str]) -> str:
    """`name`, or `name:1`, `name:2` where it is taken."""
    found = name
    for number in itertools.count(1):
        if found not in taken:
            break
        found = f"{name}:{number}"
    taken.add(found)
    return found
