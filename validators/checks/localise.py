"""After parity failed: the first site whose output differs, so that a fault is looked for in one layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aurep.validators.checks.parity import reference_outputs
from aurep.validators.checks.tolerances import PARITY_SCALED
from aurep.validators.files.samples import eager_sites
from aurep.validators.graph.batch import fixed_batch
from aurep.validators.report import Check
from aurep.validators.session import CannotRunError, Session
from aurep.validators.sites.recovery import RecoveredSite

IMAGES = 2


def check_localise(
    model: onnx.ModelProto, sites: Mapping[str, RecoveredSite], inputs: NDArray[np.float32], run: Any = None
) -> Check:
    """Compare every site's output with the eager model's (`run`: an `aurep.training.Run`), else with the reference."""
    few = inputs[: min(IMAGES, fixed_batch(model) or IMAGES)]  # one batch
    against = "the eager model" if run is not None else "the ONNX reference"
    try:
        found = site_outputs(model, sites, few)
        expected = (
            eager_sites(run, few, lambda _, y: y.numpy()) if run is not None else _reference_outputs(model, sites, few)
        )
    except CannotRunError as error:
        return Check("localise", "not found", None, False, str(error))
    for name, values in found.items():
        if name not in expected:
            continue
        scale = float(np.abs(expected[name]).max(initial=0)) or 1.0
        scaled = float(np.abs(values - expected[name]).max(initial=0)) / scale
        if not scaled <= PARITY_SCALED:
            hint = f"Site {name} is the first that differs from {against}: scaled error {scaled:.1e}."
            return Check("localise", name, None, False, hint)
    hint = f"Every site agrees with {against}; the difference arises after the last one"
    hint += "." if run is not None else ", or between the graph and the eager model: give --run to compare with that."
    return Check("localise", "after the last site", None, False, hint)


def site_outputs(
    model: onnx.ModelProto, sites: Mapping[str, RecoveredSite], inputs: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    """ONNX Runtime's output of every site, in the graph's order."""
    exposed = _exposed(model, sites)
    (values,) = list(Session(exposed, "cpu").run_all(inputs))
    return _of_sites(values, sites, len(inputs))


def _of_sites(
    values: Mapping[str, NDArray[Any]], sites: Mapping[str, RecoveredSite], rows: int
) -> dict[str, NDArray[Any]]:
    """Every site's output of `values`, with the constant that was moved out of it added."""
    return {
        name: values[site.output][:rows] + (values[site.moved] if site.moved is not None else 0)
        for name, site in sites.items()
    }


def _exposed(model: onnx.ModelProto, sites: Mapping[str, RecoveredSite]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    wanted = {name: None for site in sites.values() for name in (site.output, site.moved) if name is not None}
    for name in wanted:
        if name not in present:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy


def _reference_outputs(
    model: onnx.ModelProto, sites: Mapping[str, RecoveredSite], inputs: NDArray[np.float32]
) -> dict[str, NDArray[Any]]:
    exposed = _exposed(model, sites)
    outputs = reference_outputs(exposed, inputs)
    values = dict(zip((value.name for value in exposed.graph.output), outputs, strict=True))
    return _of_sites(values, sites, len(inputs))
