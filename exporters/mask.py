"""A constant mask in few bytes: the distances between its set elements, summed up when a runtime loads the file."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from aurep.exporters.graph import Builder


def add_mask(builder: Builder, mask: NDArray[np.bool_]) -> gs.Tensor:
    """The constant `mask`, which has at least one element set, as nodes; the file holds a byte or two for each.

    Distances are counted from the end of the flattened mask, so that their sums, negated, are indices.
    """
    from_end = mask.size - np.flatnonzero(mask)[::-1]
    gaps = np.diff(from_end, prepend=0)
    stored = builder.constant("gaps", gaps.astype(np.min_scalar_type(gaps.max())))
    axis, size = builder.constant("axis", np.array(0)), builder.constant("size", np.array([mask.size]))
    sums = builder.add("CumSum", builder.add("Cast", stored, label="long", to=np.int64), axis, label="sums")
    none = builder.add("ConstantOfShape", size, label="none", value=gs.Constant("", np.array([False])))
    ones = builder.add("Cast", stored, label="ones", to=np.bool_)
    flat = builder.add("ScatterElements", none, builder.add("Neg", sums, label="index"), ones, label="flat")
    return builder.add("Reshape", flat, builder.constant("shape", np.array(mask.shape)), label="mask")
