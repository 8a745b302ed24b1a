"""`aurep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from aurep.training import RunResult
    from aurep.validators import Report


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("aurep-demo"), show_default=True)
def command(out: Path) -> None:
    """Train, export and validate on 5,000 MNIST digits: the whole of aurep in about two minutes on a CPU."""
    from rich.console import Console

    from aurep.cli.export import export_run
    from aurep.cli.train import read, summary
    from aurep.training import train
    from aurep.validators import validate

    console = Console()
    run, bundle = out / "run", out / "bundle"
    config = read("demo", [])
    console.rule("aurep train demo")
    result = train(config, run, resume=run.exists(), console=console)
    console.print(summary(result))
    console.rule(f"aurep export {run} -o {bundle}")
    path = export_run(run, bundle)
    console.print(f"wrote {path}", highlight=False)
    console.rule(f"aurep validate {bundle} --run {run} --data {config.data.name}")
    report = validate(bundle, run=run, data=config.data.name, max_accuracy_drop=1.0)
    _show(console, result, report, run, bundle)
    if not report.passed:
        raise SystemExit(1)
