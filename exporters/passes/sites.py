"""Each site in the form of the target.

1. All elements kept: a plain Relu.
2. None kept: the polynomial alone; at degree 0 nothing at all.
3. Some kept: the target's form.

`gather`: Relu sees exactly the k kept elements, so that its cost falls with them.

    kept = Relu(Gather(Flatten(x), relu_index, axis=1))
    y    = Reshape(Gather(Concat(kept, Flatten(p(x))), select, axis=1)),   select[i] = position in kept, or k + i

`mask`: y = relu(x) m + p(x) (1 - m). Evaluates ReLU everywhere.

`max`: y = Max((a x + b) x + c, floor) with (a, b, c, floor) = (0, 1, 0, 0) at kept elements and (c2, c1, c0, -inf) at
the others. The constants are Where(mask, 0, c2) and so on, and the mask is unfolded from the distances between kept
elements, all of which a runtime does once, when it loads the file: the file holds a byte or two for each kept element
instead of sixteen for every one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from aurep.exporters.graph import Builder
from aurep.exporters.mask import add_mask
from aurep.exporters.polynomial import add_horner, add_polynomial
from aurep.exporters.site import Site, hybrid_nodes, read_site
from aurep.exporters.targets import Form, Target


def expand_sites(graph: gs.Graph, target: Target) -> None:
    for node in hybrid_nodes(graph):
        site, x = read_site(node), node.inputs[0]
        builder = Builder(site.name)
        if site.kept == site.mask.size:
            result = builder.add("Relu", x)
        elif site.kept == 0:
            result = add_polynomial(builder, x, site, target)
        else:
            result = _FORMS[target.form](builder, x, site, target)
        builder.replace(graph, node, result)


def _gather(builder: Builder, x: gs.Tensor, site: Site, target: Target) -> gs.Tensor:
    flat = len(site.shape) == 1
    mask = site.mask.reshape(-1)
    kept_index = np.flatnonzero(mask)
    select = site.kept + np.arange(mask.size)
    select[kept_index] = np.arange(site.kept)
    poly = add_polynomial(builder, x, site, target)
    row = x if flat else builder.add("Flatten", x, axis=1)
    poly_row = row if poly is x else poly if flat else builder.add("Flatten", poly, label="Flatten_polynomial", axis=1)
    index = builder.constant("relu_index", kept_index.astype(np.int64))
    kept = builder.add("Relu", builder.add("Gather", row, index, label="Gather_kept", axis=1))
    both = builder.add("Concat", kept, poly_row, axis=1)
    chosen = builder.add("Gather", both, builder.constant("select", select.astype(np.int64)), label="Select", axis=1)
    if flat:
        return chosen
    return builder.add("Reshape", chosen, builder.constant("shape", np.array([-1, *site.shape], dtype=np.int64)))


def _mask(builder: Builder, x: gs.Tensor, site: Site, target: Target) -> gs.Tensor:
    kept = builder.constant("kept", site.mask.astype(np.float32))
    replaced = builder.constant("replaced", (~site.mask).astype(np.float32))
    relu = builder.add("Mul", builder.add("Relu", x), kept, label="Mul_kept")
    poly = builder.add("Mul", add_polynomial(builder, x, site, target), replaced, label="Mul_replaced")
    return builder.add("Add", relu, poly)


def _max(builder: Builder, x: gs.Tensor, site: Site, target: Target) -> gs.Tensor:
    mask, zero = add_mask(builder, site.mask), builder.constant("zero", np.array(0, np.float32))
    constants = blend(builder, site, mask, zero)
    value = add_horner(builder, x, constants) if constants else x
    return builder.add("Max", value, add_floor(builder, mask, zero))


def blend(builder: Builder, site: Site, mask: gs.Tensor, zero: gs.Tensor) -> list[gs.Tensor]:
    """a, b, c of the max form, those that the degree has, in descending order: 0, 1, 0 at kept elements."""
    one, columns = builder.constant("one", np.array(1, np.float32)), list(enumerate(site.columns()))
    return [
        builder.add("Where", mask, one if k == 1 else zero, builder.constant(f"c{k}", column), label=f"c{k}s")
        for k, column in reversed(columns)
    ]


def add_floor(builder: Builder, mask: gs.Tensor, at_kept: gs.Tensor) -> gs.Tensor:
    """What the max form bounds elements by: nothing, where they are replaced."""
    never = builder.constant("floor", np.array(-np.inf, dtype=np.float32))
    return builder.add("Where", mask, at_kept, never, label="floors")


_FORMS: dict[Form, Callable[[Builder, gs.Tensor, Site, Target], gs.Tensor]] = {
    "gather": _gather,
    "mask": _mask,
    "max": _max,
}
