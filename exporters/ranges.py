"""The range certificate of a file: what its sites' inputs are on calibration images, and what follows from that.

Measured in the eager module, since a graph's tensors need not be the sites' inputs (`passes/push.py` moves constants).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aurep.activation import HybridActivation
from aurep.exporters.capture import INPUT, Batch, run_eager
from aurep.exporters.parity import open_file
from aurep.exporters.site import Site
from aurep.frameworks import FixedPoint
from aurep.metadata import FractionBits, RangeClaim, SiteRange
from aurep.ranges import QUANTILES, certified, columns, headroom_bits, largest_magnitude, padded, polynomial_error
from aurep.truncation import MODES, fraction_bits

Array = NDArray[np.float32]
LEAST = 16  # images that a certificate is made from: of fewer, others would leave the range at once
_ROWS = 64  # images run at a time
_KEPT = 2**19  # inputs a site that quantiles are taken from
_SIMULATED = 16  # images that fraction bits are tried on: errors are spread over all their logits alike


@dataclass(frozen=True)
class Calibration:
    """`inputs` (n, ...) as the model takes them, and what they are."""

    inputs: Array
    data: str = "samples"


@dataclass
class _Seen:
    """One site's inputs so far: bounds (C,), and some of them for the quantiles."""

    low: Tensor
    high: Tensor
    some: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, x: Tensor, kept: int) -> _Seen:
        """From a site's inputs `x` (n, C, ...), fewer than twice `kept` of them for the quantiles."""
        rows = x.transpose(0, 1).flatten(1)
        step = max(1, x.numel() // kept)
        return cls(rows.amin(1), rows.amax(1), [x.flatten()[::step].clone()])

    def add(self, other: _Seen) -> None:
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.some += other.some


def certify(
    module: nn.Module,
    proto: onnx.ModelProto,
    sites: Sequence[Site],
    calibration: Calibration,
    form: FixedPoint | None,
    batch: Batch,
) -> RangeClaim | None:
    """What holds of `sites` and of the graph `proto` in `form`; None where there is too little to measure."""
    if len(calibration.inputs) < LEAST:
        return None
    seen = _measure(module, calibration.inputs)
    rows = tuple(_row(site, seen[site.name], form) for site in sites if site.name in seen)
    if not rows:
        return None
    bits = None if form is None else _fraction_bits(module, proto, calibration.inputs[:_SIMULATED], form, batch)
    return RangeClaim(data=calibration.data, images=len(calibration.inputs), sites=rows, fraction_bits=bits)


def _measure(module: nn.Module, inputs: Array) -> dict[str, _Seen]:
    """By site, named as `name_sites` names the calls of one module."""
    found: dict[str, _Seen] = {}
    calls: dict[str, int] = defaultdict(int)
    kept = _KEPT // -(-len(inputs) // _ROWS)  # of each batch

    def watch(site: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(site, HybridActivation)
        name = f"{site.site}:{calls[site.site]}" if calls[site.site] else site.site
        calls[site.site] += 1
        now = _Seen.of(given[0].detach(), kept)
        if name in found:
            found[name].add(now)
        else:
            found[name] = now

    hooks = [m.register_forward_pre_hook(watch) for m in module.modules() if isinstance(m, HybridActivation)]
    try:
        for start in range(0, len(inputs), _ROWS):
            calls.clear()
            run_eager(module, torch.from_numpy(inputs[start : start + _ROWS]), "calibration images")
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _row(site: Site, seen: _Seen, form: FixedPoint | None) -> SiteRange:
    measured = seen.low.tolist(), seen.high.tolist()
    low, high = (columns(bound, site.shape) for bound in certified(*measured))
    replaced = ~site.mask
    terms = padded(site.coefficients, site.shape, site.degree)
    error = (polynomial_error(terms, low, high) * replaced).max(initial=0)
    magnitude = largest_magnitude(terms * replaced[..., None], low, high)
    quantiles = np.quantile(torch.cat(seen.some).numpy(), QUANTILES)
    return SiteRange(
        name=site.name,
        low=_short(measured[0]),
        high=_short(measured[1]),
        quantiles=_short(quantiles),
        headroom_bits=None if form is None else headroom_bits(magnitude, form),
        polynomial_error=_short([error])[0],
    )


def _short(values: Iterable[float]) -> tuple[float, ...]:
    """Five digits: the bounds' margin is far wider, and a network has thousands of them."""
    return tuple(float(f"{value:.5g}") for value in values)


def _fraction_bits(
    module: nn.Module, model: onnx.ModelProto, inputs: Array, form: FixedPoint, batch: Batch
) -> FractionBits:
    """Tried on the graph as it is written."""
    known = (*model.graph.value_info, model.graph.output[0])
    tensors = {value.name for value in known if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    tensors &= {name for node in model.graph.node if node.op_type != "Constant" for name in node.output}
    exact = run_eager(module, torch.from_numpy(inputs)).numpy()

    def run(simulated: onnx.ModelProto, fed: Array) -> Iterator[Mapping[str, Array]]:
        session = open_file(simulated.SerializeToString())
        names = [output.name for output in session.get_outputs()]
        rows = len(fed) if batch == "dynamic" else batch
        for start in range(0, len(fed), rows):
            whole = np.resize(fed[start : start + rows], (rows, *fed.shape[1:]))
            yield dict(zip(names, session.run(None, {INPUT: whole}), strict=True))

    deterministic, probabilistic = (fraction_bits(model, tensors, form, how, inputs, exact, run) for how in MODES)
    return FractionBits(ring=form.ring, deterministic=deterministic, probabilistic=probabilistic)
