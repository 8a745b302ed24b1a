"""Many runs of one recipe: methods x budgets x seeds, in one folder that several workers may share.

    FOLDER/baseline-s<seed>/                      one teacher per seed, shared by every method
    FOLDER/<method>-<budget>-s<seed>/             a run folder each
    FOLDER/comparison.json, comparison.html       the table and the plot, once every run has ended

A worker takes any run that is neither ended nor locked by another worker. A lock dies with its process, so a run that
was killed is taken up by the next worker where it stopped. A run whose loss diverged leaves `diverged.txt`, is not
tried again, and is named beside the table.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.results import ComparisonRow, Cost, read_result
from aurep.search import check_options
from aurep.training.cells import DIVERGED, Cell, attempt, cell_config, claimed
from aurep.training.compare_page import comparison_page
from aurep.training.config import Config
from aurep.training.progress import Progress

Costs = Callable[[Path], Sequence[Mapping[str, Any]]]  # run folder -> estimates per protocol
_LOOK_AGAIN_SECONDS = 5.0

Launcher = Callable[[Config, Mapping[Cell, Config], Path, Console | None], None]


def run_here(recipe: Config, configs: Mapping[Cell, Config], folder: Path, console: Console | None = None) -> None:
    """Run the cells in this process, one after the other, but for those that other workers run; wait for these."""
    del recipe
    pending = list(configs)
    while pending:
        left = [cell for cell in pending if not attempt(cell, configs[cell], folder, console)]
        if left == pending:
            time.sleep(_LOOK_AGAIN_SECONDS)
        pending = left


def compare(
    config: Config,
    folder: Path,
    methods: Sequence[str],
    budgets: Sequence[str],
    seeds: Sequence[int],
    console: Console | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    costs: Costs | None = None,
    launcher: Launcher = run_here,
) -> list[ComparisonRow]:
    """Run what is missing, wait for what other workers run, and write the comparison.

    Args:
        config: the recipe; its method, budget and seed are replaced by each cell's, its `search.options` go to its own
            method only.
        folder: shared by all workers of this comparison; it remembers the recipe and refuses another.
        methods, budgets, seeds: every combination is a run.
        costs: what a finished run costs, such as an `aurep.costs.RunCosts`; the page then shows accuracy over bytes
            and rounds too.
        variants: names that `methods` may use too, each with the `section.key=value` overrides that it stands for.
        launcher: returns when every cell has ended: in this process, or an `aurep.training.cluster.Cluster`.

    Returns:
        A row per method and budget. Seeds whose run diverged are listed in `diverged` and count for nothing else; a
        row without any other seed is left out.

    Raises:
        AurepError: an unknown method, a bad budget, or a folder that holds the comparison of another recipe.
    """
    cells = [Cell(m, str(b), s) for s in seeds for b in budgets for m in methods]
    if not cells:
        raise AurepError("nothing to compare; give at least one method, one budget and one seed.")
    for cell in cells:
        checked = cell_config(config, cell, (variants or {}).get(cell.method))
        check_options(checked.search.method, checked.search.options)
    progress = Progress(console)
    config = claimed(folder, config, progress, settles=launcher is run_here)
    configs = {cell: cell_config(config, cell, (variants or {}).get(cell.method)) for cell in cells}
    launcher(config, configs, folder, console)
    config = claimed(folder, config, progress)
    rows = list(summarise(folder, methods, budgets, seeds, costs))
    facts = {"recipe": config.model_dump(mode="json", exclude_none=True), "seeds": list(seeds)}
    facts["rows"] = [asdict(row) for row in rows]
    write_text(folder / "comparison.json", json.dumps(facts, indent=2) + "\n")
    lost = [cell.folder(folder) for cell in cells if cell.diverged(folder)]
    page = comparison_page(rows, seeds, [path.name for path in lost], config.to_toml())
    write_text(folder / "comparison.html", page)
    if console is not None:
        for path in lost:
            console.print(f"{path.name} diverged: {(path / DIVERGED).read_text().strip()}", highlight=False)
    return rows


def summarise(
    folder: Path, methods: Sequence[str], budgets: Sequence[str], seeds: Sequence[int], costs: Costs | None = None
) -> Iterator[ComparisonRow]:
    """A row per method and budget, from the finished runs."""
    for budget in budgets:
        for method in methods:
            cells = [Cell(method, budget, s) for s in seeds]
            ended = [cell for cell in cells if cell.finished(folder)]
            if not ended:
                continue
            runs = [read_result(cell.folder(folder)) for cell in ended]
            accuracy = [run.test_accuracy for run in runs]
            yield ComparisonRow(
                method=method,
                budget=budget,
                relu_count=runs[0].relu_count,
                relu_total=runs[0].relu_total,
                degree=runs[0].sites[0].degree,
                seeds=[cell.seed for cell in ended],
                diverged=[cell.seed for cell in cells if cell not in ended],
                val_accuracy=[run.val_accuracy for run in runs],
                test_accuracy=accuracy,
                mean=statistics.mean(accuracy),
                spread=statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0,
                teacher_mean=statistics.mean(run.teacher_test_accuracy for run in runs),
                seconds=statistics.mean(run.seconds for run in runs),
                relu_sites=statistics.mean(run.relu_sites for run in runs),
                costs=_mean([costs(cell.folder(folder)) for cell in ended]) if costs else [],
            )


def _mean(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[Cost]:
    """Of the estimates of several runs, protocol by protocol."""
    return [
        Cost(
            protocol=f"{entries[0]['framework']} {entries[0]['protocol']}",
            megabytes=statistics.mean(entry["bytes"] - entry["weight_opening"] for entry in entries) / 1e6,
            rounds=None if entries[0]["rounds"] is None else statistics.mean(entry["rounds"] for entry in entries),
        )
        for entries in zip(*runs, strict=True)
    ]
