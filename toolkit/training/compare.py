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
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from aurep.errors import AurepError, Diverged
from aurep.files import write_text
from aurep.results import ComparisonRow, Cost, read_result
from aurep.search import check_options
from aurep.training.arithmetic import settle, settled_like
from aurep.training.checkpoint import RunFolder
from aurep.training.compare_page import comparison_page
from aurep.training.config import Config, check_config, parse_config
from aurep.training.progress import Progress
from aurep.training.runs import RunBusy, train, train_baseline

Costs = Callable[[Path], Sequence[Mapping[str, Any]]]  # run folder -> estimates per protocol
_LOOK_AGAIN_SECONDS = 5.0
_DIVERGED = "diverged.txt"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    method: str
    budget: str
    seed: int

    def folder(self, root: Path) -> Path:
        method = re.sub(r"[^\w.]+", "_", self.method)
        return root / f"{method}-{self.budget.replace('%', 'pct')}-s{self.seed}"

    def finished(self, root: Path) -> bool:
        return RunFolder(self.folder(root)).finished

    def diverged(self, root: Path) -> bool:
        return (self.folder(root) / _DIVERGED).exists()


def compare(
    config: Config,
    folder: Path,
    methods: Sequence[str],
    budgets: Sequence[str],
    seeds: Sequence[int],
    console: Console | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    costs: Costs | None = None,
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
    config = _claimed(folder, config, Progress(console))
    configs = {cell: cell_config(config, cell, (variants or {}).get(cell.method)) for cell in cells}
    pending = cells
    while pending:
        left = [cell for cell in pending if not _attempt(cell, configs[cell], folder, console)]
        if left == pending:
            time.sleep(_LOOK_AGAIN_SECONDS)
        pending = left
    rows = list(summarise(folder, methods, budgets, seeds, costs))
    facts = {"recipe": config.model_dump(mode="json", exclude_none=True), "seeds": list(seeds)}
    facts["rows"] = [asdict(row) for row in rows]
    write_text(folder / "comparison.json", json.dumps(facts, indent=2) + "\n")
    lost = [cell.folder(folder) for cell in cells if cell.diverged(folder)]
    page = comparison_page(rows, seeds, [path.name for path in lost], config.to_toml())
    write_text(folder / "comparison.html", page)
    if console is not None:
        for path in lost:
            console.print(f"{path.name} diverged: {(path / _DIVERGED).read_text().strip()}", highlight=False)
    return rows


def cell_config(config: Config, cell: Cell, overrides: Sequence[str] | None = None) -> Config:
    """The recipe with the cell's seed, budget and either method or a variant's `overrides`."""
    origin = f"{cell.method} at {cell.budget}"
    if overrides is None:
        overrides = [f"search.method='{cell.method}'"]
    varied = parse_config(config.to_toml(), origin, overrides)
    if varied.search.method != config.search.method and config.search.options:  # the recipe's are its own method's
        plain = config.search.model_copy(update={"options": {}})
        return cell_config(config.model_copy(update={"search": plain}), cell, overrides)
    fields = varied.model_dump(mode="json", exclude_none=True)
    fields["search"]["budget"] = cell.budget
    fields["train"]["seed"] = cell.seed
    return check_config(fields, origin)


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


def _claimed(folder: Path, config: Config, progress: Progress) -> Config:
    """The recipe of all workers. The first one writes it, with what its machine makes of "auto"; the others take that,
    and check the rest of theirs against it, but for where the data lies."""
    path = folder / "recipe.toml"
    if not path.exists():
        config = settle(config, progress.say)
        write_text(path, config.to_toml())
        return config
    first = parse_config(path.read_text(), str(path))
    config = settled_like(config, first)
    if first.digest() != config.digest():
        raise AurepError(f"{folder} holds the comparison of another recipe; choose another folder with --out.")
    return config


def _attempt(cell: Cell, config: Config, folder: Path, console: Console | None) -> bool:
    """Run `cell` if nobody else does. True where it has ended."""
    if cell.finished(folder) or cell.diverged(folder):
        return True
    try:
        fields = config.model_dump(mode="json", exclude_none=True)
        if config.baseline.checkpoint is None:
            fields["baseline"]["checkpoint"] = str(train_baseline(config, folder / f"baseline-s{cell.seed}", console))
        _train(check_config(fields), cell.folder(folder), console)
    except RunBusy:
        return cell.finished(folder)
    return True


def _train(config: Config, out: Path, console: Console | None) -> None:
    if console is not None:
        console.rule(out.name)
    try:
        train(config, out, resume=True, console=console)
    except Diverged as error:
        write_text(out / _DIVERGED, f"{error}\n")
