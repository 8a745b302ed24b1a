"""`aurep export`: a finished run becomes a bundle that another party can load and check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurep.cli.runs import RunPath
from aurep.errors import AurepError
from aurep.exporters.targets import TARGETS

if TYPE_CHECKING:
    from aurep.exporters.capture import Batch


@click.command("export")
@click.argument("run", type=RunPath(exists=True, file_okay=False, path_type=Path), metavar="RUN|zoo:NAME")
@click.option(
    "-o", "--out", "bundle", required=True, type=click.Path(path_type=Path), help="Bundle folder, or a file NAME.onnx."
)
@click.option(
    "--target", type=click.Choice(list(TARGETS)), default="onnx", show_default=True, help="Who runs the file."
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the run's data set lies.  [default: it knows]")
@click.option("--batch", metavar="N|dynamic", help="Batch size of the file.  [default: dynamic where the target can]")
@click.option(
    "--secret-coefficients",
    is_flag=True,
    help="The polynomials' coefficients are secret like the weights (crypten, where they are public otherwise).",
)
@click.option(
    "--push-constants",
    is_flag=True,
    help="Carry constant terms into later layers (onnxruntime only): faster.",
)
@click.option(
    "--width-multiplier",
    type=float,
    default=1.0,
    help="Share of the channels, one of those that the run was trained at.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=16),  # of fewer nothing is certified
    metavar="N",
    help="Training images that the sites' ranges are certified on.  [default: 512 to 4096, fewer of larger ones]",
)
@click.option("--no-validate", is_flag=True, help="Do not validate what was written.")
def command(
    run: Path,
    bundle: Path,
    target: str,
    data_dir: Path | None,
    batch: str | None,
    secret_coefficients: bool,
    push_constants: bool,
    width_multiplier: float,
    calibration_images: int | None,
    no_validate: bool,
) -> None:
    """Export the run folder RUN (or a network of a clone's zoo) as ONNX, and validate the result against the run."""
    from aurep.exporters import export_run

    file = export_run(
        run,
        bundle,
        target,
        data_dir=data_dir,
        width_multiplier=width_multiplier,
        calibration_images=calibration_images,
        batch=_batch(batch),
        secret_coefficients=secret_coefficients,
        push_constants=push_constants,
    )
    click.echo(f"wrote {file} ({file.stat().st_size:,} bytes) for target {target}")
    if not no_validate:
        from rich.console import Console

        from aurep.validators import render, validate

        report = validate(bundle, run=run, data_dir=data_dir)
        render.to_console(report, Console(highlight=False))
        if not report.passed:
            raise click.exceptions.Exit(1)


def _batch(text: str | None) -> Batch | None:
    if text is None:
        return None
    if text == "dynamic":
        return "dynamic"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise AurepError(f"--batch {text!r} is neither a positive number nor 'dynamic'.")
    return int(text)
