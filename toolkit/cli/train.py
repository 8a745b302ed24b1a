"""`aurep train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurep.cli.runs import source_from_zoo

if TYPE_CHECKING:
    from rich.table import Table

    from aurep.training import RunResult
    from aurep.training.config import Config

_SHORTCUTS = {  # option -> the configuration key it sets
    "model": "model.name",
    "data": "data.name",
    "data_dir": "data.dir",
    "maxpool": "model.maxpool",
    "teacher": "baseline.checkpoint",
    "budget": "search.budget",
    "max_sites": "search.max_sites",
    "method": "search.method",
    "degree": "search.degree",
    "device": "train.device",
    "seed": "train.seed",
}


@click.command("train")
@click.argument("recipe", required=False)
@click.option(
    "--model", help="resnet9, 18, 20, 32, 34, 56, wide_resnet22_8, vgg16, timm:NAME or package.module:factory."
)
@click.option("--data", help="mnist5k, digits, cifar10, cifar100, tiny-imagenet, folder:PATH, npz:PATH or hf:NAME.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the data set lies, or is downloaded to.")
@click.option("--maxpool", type=click.Choice(["max", "avg"]), help="avg swaps max-pooling, which compares as well.")
@click.option(
    "--teacher",
    callback=source_from_zoo,
    metavar="SOURCE",
    help="Own weights: a file, a run, zoo:NAME, hf:REPO or timm:NAME; no baseline then.",
)
@click.option("--budget", help="ReLU elements that may stay: 12900, 12.9k, or a share such as 10%.")
@click.option(
    "--max-sites", type=click.IntRange(min=0), metavar="K", help="Sites that ReLUs may stay at: fewer rounds."
)
@click.option("--method", help="autorep, snl, senet, saliency, random, uniform or layerwise.")
@click.option("--degree", type=click.Choice(["2", "1", "0"]), help="Degree of the polynomials; 0 is the identity.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder to write.  [default: runs/<what it is>]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run that was stopped.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="After every epoch, each site's largest input as well.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. finetune.epochs=40.")
def command(
    recipe: str | None,
    out: Path | None,
    resume: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Train within a ReLU budget: baseline, search, finetune.

    RECIPE is a shipped name (see `aurep recipes`) or a TOML file; options and --set override it.
    """
    from rich.console import Console

    from aurep.training import train
    from aurep.training.heap import keep_freed_memory
    from aurep.training.reading import read_config
    from aurep.training.signals import Stopped

    given = [f"{key}={_toml(options[name])}" for name, key in _SHORTCUTS.items() if options[name] is not None]
    if resume is not None and (recipe or out or given or overrides):
        raise click.UsageError("--resume goes on with the run as it was configured; give it alone.")
    config = read_config(resume) if resume is not None else read(recipe, [*given, *overrides])
    keep_freed_memory()
    others = os.environ.get("LOCAL_RANK", "0") != "0"  # under torchrun, one process of a node speaks; all do the same
    console = Console(quiet=quiet or others)
    try:
        shown = None if quiet else console
        result = train(config, resume or out, resume=resume is not None, console=shown, verbose=verbose)
    except Stopped as stopped:
        folder = resume or out or "RUN"
        click.echo(
            f"Stopped by {stopped}; the checkpoint is written. Go on with: aurep train --resume {folder}", err=True
        )
        raise SystemExit(128 + stopped.number) from None
    console.print(summary(result))
    console.print(
        f"Run folder: {result.run_dir}\nNext: aurep export {result.run_dir} -o {result.run_dir}-bundle", highlight=False
    )


def read(recipe: str | None, overrides: list[str]) -> Config:
    """The configuration of a recipe (or the defaults) with overrides."""
    from aurep.training.config import parse_config, read_recipe

    text, origin = (read_recipe(recipe), f"recipe {recipe}") if recipe else ("", "configuration")
    return parse_config(text, origin, overrides)


def summary(result: RunResult) -> Table:
    """Teacher against hybrid network."""
    from rich.table import Table

    table = Table("", *[_right(name) for name in ("ReLUs", "val %", "test %")])
    rows = [
        ("teacher", result.relu_total, result.teacher_val_accuracy, result.teacher_test_accuracy),
        ("hybrid", result.relu_count, result.val_accuracy, result.test_accuracy),
    ]
    for narrow in result.narrower:
        name = f"width × {narrow.width_multiplier:g}"
        rows.append((name, narrow.relu_count, narrow.val_accuracy, narrow.test_accuracy))
    for name, count, val, test in rows:
        table.add_row(name, f"{count:,}", "–" if val is None else f"{val:.2f}", f"{test:.2f}")
    table.caption = f"budget {result.relu_budget:,} of {result.relu_total:,}; {result.seconds:.0f} s of training"
    return table


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _toml(value: Any) -> str:
    """Numbers as they are; text quoted, so that a path or a budget such as 12.9k stays text."""
    text = str(value)
    return text if text.isdigit() else "'" + text + "'"
