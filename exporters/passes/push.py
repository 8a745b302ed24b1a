"""Constant terms carried forward: out of the sites, into the constants of what follows (`Target.push`).

A pass over all activations, just to add a constant, costs a runtime as much as a ReLU. So let a tensor t of the graph
stand for t + K, where K is a constant of its shape for one image. Then, in the order of the graph:

1. A site in the max form, (a, b, c) as in `sites`, whose input z stands for x = z + K, becomes with s = b + a K

       y' = Max((a z + s + a K) z, floor')     stands for  y' + K',   K' = c + K s

   since a x^2 + b x + c = a z^2 + (b + 2 a K) z + c + K (b + a K), and max(z + K, 0) = max(z, -K) + K makes floor' -K
   at kept elements. All kept: Max(z, -K). None kept: no Max.
2. Conv, Gemm, AveragePool, GlobalAveragePool, Flatten and Mul by a constant are linear: K' is the same of K, without
   the bias. A conv pads t with zeros, and K with zeros.
3. Add: K' is the sum of those that its terms have.
4. For any other reader, and at the graph's output, t + K is added up once; it is also where a max-pooling comes later:
   validators tell it from a ReLU in disguise by all positions being treated alike, which K ends. A site with nowhere to
   carry its constant to keeps its form.

K is computed by nodes on constants, as the sites' own constants are: a runtime does it once, when it loads the file.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from aurep.exporters.graph import Builder, index_of, static
from aurep.exporters.mask import add_mask
from aurep.exporters.passes.naming import owner_of
from aurep.exporters.passes.sites import add_floor, blend
from aurep.exporters.site import DOMAIN, Site, read_site
from aurep.exporters.targets import Target

# Linear operators, and how many of their inputs the same of K has: all but the bias.
_LINEAR = {"Conv": 2, "Gemm": 2, "Mul": 2, "AveragePool": 1, "GlobalAveragePool": 1, "Flatten": 1}
_POOLINGS = ("MaxPool", "GlobalMaxPool")


def push_constants(graph: gs.Graph, target: Target) -> None:
    if not target.push:
        return
    carriers = _carriers(graph)
    moved: dict[int, gs.Tensor] = {}  # K by the id of t
    for node in list(graph.nodes):
        result = node.outputs[0]
        constants = [moved.get(id(tensor)) for tensor in node.inputs]
        if node.domain == DOMAIN:
            constant = _push_site(graph, node, constants[0]) if id(result) in carriers else None
        else:
            constant = _push_through(graph, node, constants)
        if constant is not None and id(result) in carriers:
            moved[id(result)] = constant
        elif constant is not None:
            _add_up(graph, result, constant)


def _carriers(graph: gs.Graph) -> set[int]:
    """Ids of the tensors that may stand for t + K: all that read them know what to do, and no max-pooling follows."""
    found, pooled = set[int](), set[int]()
    for node in reversed(graph.nodes):
        result = node.outputs[0]
        if node.op in _POOLINGS or any(id(tensor) in pooled for tensor in node.outputs):
            pooled.update(id(tensor) for tensor in node.inputs)
            continue
        is_result = any(result is tensor for tensor in graph.outputs)
        if not is_result and all(_takes(reader, result, found) for reader in result.outputs):
            found.add(id(result))
    return found


def _takes(node: gs.Node, tensor: gs.Tensor, carriers: set[int]) -> bool:
    """Whether `node` may read t of t + K; `carriers` holds its output where that may carry a constant on."""
    if node.domain == DOMAIN:
        return node.inputs[0] is tensor and id(node.outputs[0]) in carriers
    computed = [other for other in node.inputs if isinstance(other, gs.Variable)]
    if node.op in ("Add", "Mul"):
        shape = static(node.outputs[0].shape)
        alike = shape is not None and all(static(other.shape) == shape for other in computed)
        return alike and (node.op == "Add" or len(computed) == 1)
    rows = node.attrs.get("axis", 1) == 1 and not node.attrs.get("transA", 0)
    return not node.domain and node.op in _LINEAR and len(computed) == 1 and node.inputs[0] is tensor and rows


def _push_through(graph: gs.Graph, node: gs.Node, constants: list[gs.Tensor | None]) -> gs.Tensor | None:
    """K' behind an operator that is no site, of `constants` by its inputs."""
    given = [constant for constant in constants if constant is not None]
    if not given or (node.op == "Add" and len(given) == 1):
        return given[0] if given else None
    if node.op != "Add":
        pairs = zip(node.inputs, constants, strict=True)
        given = [tensor if constant is None else constant for tensor, constant in pairs][: _LINEAR[node.op]]
    found = gs.Variable(f"{node.outputs[0].name}/constant")
    name = f"{owner_of(node) or node.op}/constant"
    same = gs.Node(node.op, name, attrs=dict(node.attrs), inputs=given, outputs=[found])
    graph.nodes.insert(index_of(graph, node) + 1, same)
    return found


def _push_site(graph: gs.Graph, node: gs.Node, constant: gs.Tensor | None) -> gs.Tensor | None:
    """Rule 1; returns K'. What has no constant term to carry off is left to `expand_sites`."""
    site, z = read_site(node), node.inputs[0]
    all_kept, none_kept = site.kept == site.mask.size, site.kept == 0
    bare = site.degree == 0 or all_kept
    if bare and (constant is None or none_kept):
        return constant
    builder = Builder(site.name)
    mask = None if all_kept or none_kept else add_mask(builder, site.mask[None])
    zero = builder.constant("zero", np.array(0, np.float32))
    value, moved = (z, constant) if bare else _polynomial(builder, z, constant, site, mask, zero)
    if not none_kept:
        floor = zero if constant is None else builder.add("Neg", constant, label="lowered")
        value = builder.add("Max", value, floor if mask is None else add_floor(builder, mask, floor))
    builder.replace(graph, node, value)
    return moved


def _polynomial(
    builder: Builder, z: gs.Tensor, constant: gs.Tensor | None, site: Site, mask: gs.Tensor | None, zero: gs.Tensor
) -> tuple[gs.Tensor, gs.Tensor]:
    """(a z + s + a K) z, or b z at degree 1, and K'."""
    columns = site.columns()
    stored = [builder.constant(f"c{k}", columns[k]) for k in reversed(range(len(columns)))]
    *powers, last = stored if mask is None else blend(builder, site, mask, zero)
    scale = slope = powers[-1]
    if constant is not None and len(powers) == 2:
        bend = builder.add("Mul", powers[0], constant, label="bend")
        scale = builder.add("Add", slope, bend, label="scale")
        slope = builder.add("Add", scale, bend, label="slope")
    if constant is not None:
        moved = builder.add("Add", last, builder.add("Mul", constant, scale, label="scaled"), label="constant")
    elif mask is None:
        moved = builder.add("Expand", last, builder.constant("shape", np.array([1, *site.shape])), label="constant")
    else:
        moved = last
    if len(powers) == 1:
        return builder.add("Mul", z, slope, label="Mul_c1"), moved
    value = builder.add("Add", builder.add("Mul", z, powers[0], label="Mul_c2"), slope, label="Add_c1")
    return builder.add("Mul", value, z, label="Mul_x"), moved


def _add_up(graph: gs.Graph, result: gs.Tensor, constant: gs.Tensor) -> None:
    """Put t + K in the place of t for all that read it."""
    node = result.inputs[0]
    bare = gs.Variable(f"{result.name}/bare", result.dtype, result.shape)
    node.outputs[0] = bare
    after = max(index_of(graph, node), index_of(graph, constant.inputs[0])) + 1
    graph.nodes.insert(after, gs.Node("Add", "", inputs=[bare, constant], outputs=[result]))
