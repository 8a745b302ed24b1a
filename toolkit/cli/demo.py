"""`aurep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from aurep.training import RunResult
    from aurep.validators.report import Report


@click.command("demo")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("aurep-demo"), show_default=True, help="A new folder."
)
def command(out: Path) -> None:
    """Train, export and validate on 5,000 MNIST digits: the whole of aurep in about two minutes on a CPU."""
    from rich.console import Console

    from aurep.cli.train import read
    from aurep.exporters import export_run
    from aurep.training import train
    from aurep.training.heap import keep_freed_memory
    from aurep.validators import render, validate

    console = Console(highlight=False)
    run, bundle = out / "run", out / "bundle"
    config = read("demo", [])
    console.rule("aurep train demo")
    keep_freed_memory()
    result = train(config, run, resume=True, console=console)
    console.rule("aurep export")
    file = export_run(run, bundle)
    console.print(f"wrote {file} ({file.stat().st_size:,} bytes)")
    console.rule("aurep validate")
    report = validate(bundle, run=run, data=config.data.name, max_accuracy_drop=1.0)
    render.to_console(report, console)
    _show(console, result, report, out)
    if not report.passed:
        raise click.exceptions.Exit(1)


def _show(console: Console, result: RunResult, report: Report, out: Path) -> None:
    """ReLUs per site, accuracies side by side, where everything is, what to type next."""
    from rich.table import Table

    console.rule("what happened")
    sites = Table("site", *_right("ReLUs before", "after", "%"))
    for site in (*result.sites, None):
        name, before, after = (
            ("total", result.relu_total, result.relu_count)
            if site is None
            else (
                site.name,
                site.elements,
                site.kept,
            )
        )
        sites.add_row(
            name, f"{before:,}", f"{after:,}", f"{100 * after / before:.1f}", end_section=site == result.sites[-1]
        )
    console.print(sites)
    found = {check.name: check.measured for check in report.checks}
    scores = Table("", *_right("test accuracy"))
    scores.add_row("teacher, all ReLU (PyTorch)", f"{result.teacher_test_accuracy:.2f} %")
    scores.add_row("hybrid (PyTorch)", f"{result.test_accuracy:.2f} %")
    scores.add_row("hybrid (ONNX Runtime)", f"{found['accuracy']:.2f} %")
    console.print(scores)
    console.print(f"Agreement of ONNX and PyTorch: {found.get('parity', 'not measured')}")
    console.print(f"Files: {out / 'run'} (report.html, metrics.csv), {out / 'bundle'} (model.onnx, budget.json)")
    console.print(f"Next:  aurep inspect {out / 'bundle'}", soft_wrap=True)
    console.print(
        "       aurep train cifar10-resnet9-narrow --data-dir DIR --budget 5% --out runs/small", soft_wrap=True
    )


def _right(*names: str) -> list[Any]:
    from rich.table import Column

    return [Column(name, justify="right") for name in names]
