"""`export_run`: a finished run as a bundle, with all that it knows of itself."""

from __future__ import annotations

from pathlib import Path

from aurep.exporters.capture import Batch
from aurep.exporters.pipeline import export
from aurep.exporters.ranges import Calibration
from aurep.training import load_run

CALIBRATION = 512  # images that ranges are measured on
SAMPLES = 64  # test images in the bundle: enough for top-1 agreement, and small enough to hand over


def export_run(
    run: str | Path,
    bundle: str | Path,
    target: str = "onnx",
    *,
    data_dir: str | Path | None = None,
    width_multiplier: float = 1.0,
    batch: Batch | None = None,
    secret_coefficients: bool = False,
    push_constants: bool = False,
) -> Path:
    """Export the run folder `run`, its network at `width_multiplier`; the rest as `export` takes it.

    Ranges are measured on training images where its data set is at hand, in `data_dir` or where the run found it.

    Returns:
        The path of the written ONNX file.

    Raises:
        AurepError: no finished run, a width multiplier it was not trained at, or what `export` refuses.
    """
    loaded = load_run(run, data_dir).narrowed(width_multiplier)
    return export(
        loaded.model,
        loaded.example_input,
        bundle,
        target,
        batch=batch,
        origin=loaded.origin,
        samples=loaded.samples(SAMPLES),
        calibration=Calibration(*loaded.calibration(CALIBRATION)),
        secret_coefficients=secret_coefficients,
        push_constants=push_constants,
    )
