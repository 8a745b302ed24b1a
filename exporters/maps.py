"""Which tensors are feature maps: at every position the same function of the image around it.

A maximum over neighbours of such a map is pooling; one over anything else could stand for a ReLU, and is claimed as
one. The validators tell the two apart as well, by code of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from aurep.exporters.site import Site
from aurep.operators import operators

_ANYWHERE = operators(  # element by element
    "Add Sub Mul Div Pow Neg Identity Dropout Cast Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu "
    "Celu Softplus Softsign Mish Gelu Erf Exp Abs Sqrt Max Min"
)
_WINDOWS = operators("Conv MaxPool AveragePool")
Shape = Sequence[int]


def feature_maps(
    graph: onnx.GraphProto, shapes: Mapping[str, Shape], constants: Collection[str], sites: Sequence[Site]
) -> set[str]:
    """Names of those tensors of `graph` (functions inlined, batch 1) that are feature maps.

    Args:
        shapes: of tensors by name, with the batch; of constants too.
        constants: names of what does not depend on the input.
        sites: by their names, which their nodes begin with: those that treat all positions alike keep a map one.
    """
    of_site = {site.name: _treats_positions_alike(site) for site in sites}
    found = {value.name for value in graph.input if len(shapes.get(value.name, ())) == 4}
    for node in graph.node:
        computed = [name for name in node.input if name and name not in constants]
        beside = [shapes.get(name, ()) for name in node.input if name and name in constants]
        owner = node.name.partition("/")[0]
        if owner in of_site:
            alike = of_site[owner] and all(name in found for name in computed)
        else:
            alike = _keeps_maps(node, computed, beside, found, shapes)
        if computed and alike:
            found.add(node.output[0])
    return found


def _treats_positions_alike(site: Site) -> bool:
    if site.coefficients is None or site.coefficients.ndim == 2:
        return True
    rows = site.coefficients.reshape(len(site.mask), -1, site.degree + 1)
    replaced = ~site.mask.reshape(len(site.mask), -1)
    first = rows[np.arange(len(rows)), np.argmax(replaced, axis=1)]
    return bool(((rows == first[:, None]).all(-1) | ~replaced).all())


def _keeps_maps(
    node: onnx.NodeProto, computed: list[str], beside: list[Shape], maps: set[str], shapes: Mapping[str, Shape]
) -> bool:
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Concat":
        return settings["axis"] == 1 and not beside and all(name in maps for name in computed)
    if node.op_type in _WINDOWS:
        indices = len(node.output) > 1
        return computed == [node.input[0]] and computed[0] in maps and not indices and _lies_on_image(settings, beside)
    if node.op_type == "BatchNormalization":
        return computed == [node.input[0]] and computed[0] in maps
    everywhere = [*beside, *(shapes.get(name, ()) for name in computed if name not in maps)]
    one_value = all(len(shape) <= 4 and all(size == 1 for size in shape[-2:]) for shape in everywhere)
    return node.op_type in _ANYWHERE and any(name in maps for name in computed) and one_value


def _lies_on_image(settings: Mapping[str, Any], beside: list[Shape]) -> bool:
    """Whether padding does not make positions of its own, beside the image: of a max-pooling, copies of one."""
    kernel = settings.get("kernel_shape") or (beside[0][2:] if beside else ())
    pads = settings.get("pads", [0] * 2 * len(kernel))
    dilations = settings.get("dilations", [1] * len(kernel))
    for size, dilation, before, after in zip(kernel, dilations, pads, pads[len(kernel) :], strict=False):
        reach = (size - 1) * dilation
        if min(before, after) < 0 or before + after > reach or max(before, after) > (reach + 1) // 2:
            return False
    return True
