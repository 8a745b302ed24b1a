"""`export_run`: a finished run as a bundle, with all that it knows of itself."""

from __future__ import annotations

from math import prod
from pathlib import Path

from aurep.exporters.capture import Batch
from aurep.exporters.pipeline import export
from aurep.exporters.ranges import Calibration
from aurep.training import load_run

# Training images that ranges are measured on: as many as have the elements of the most of CIFAR's size. In a deep
# network of polynomials a few in a thousand reach far beyond the others. Of a ResNet-32's 31 sites two left on 1,024
# test images what 512 had certified, and none what 4,096 had.
LEAST_CALIBRATION, MOST_CALIBRATION = 512, 4096
CALIBRATION_ELEMENTS = MOST_CALIBRATION * 3 * 32 * 32
SAMPLES = 64  # test images in the bundle: enough for top-1 agreement, and small enough to hand over


def export_run(
    run: str | Path,
    bundle: str | Path,
    target: str = "onnx",
    *,
    data_dir: str | Path | None = None,
    width_multiplier: float = 1.0,
    calibration_images: int | None = None,
    batch: Batch | None = None,
    secret_coefficients: bool = False,
    push_constants: bool = False,
) -> Path:
    """Export the run folder `run`, its network at `width_multiplier`; the rest as `export` takes it.

    Ranges are measured on training images where its data set is at hand, in `data_dir` or where the run found it: on
    `calibration_images`, by default 512 to 4096, fewer of larger ones.

    Returns:
        The path of the written ONNX file.

    Raises:
        AurepError: no finished run, a width multiplier it was not trained at, or what `export` refuses.
    """
    loaded = load_run(run, data_dir).narrowed(width_multiplier)
    some = calibration_images or default_calibration(loaded.result.input.shape)
    return export(
        loaded.model,
        loaded.example_input,
        bundle,
        target,
        batch=batch,
        origin=loaded.origin,
        samples=loaded.samples(SAMPLES),
        calibration=Calibration(*loaded.calibration(some)),
        secret_coefficients=secret_coefficients,
        push_constants=push_constants,
    )


def default_calibration(shape: tuple[int, ...]) -> int:
    """How many images of `shape` (C, H, W) ranges are measured on."""
    return min(MOST_CALIBRATION, max(LEAST_CALIBRATION, CALIBRATION_ELEMENTS // prod(shape)))
