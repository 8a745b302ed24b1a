"""One run of a comparison: its folder, its configuration, and running it unless another worker does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from aurep.errors import AurepError, Diverged
from aurep.files import write_text
from aurep.training.arithmetic import settle, settled_like
from aurep.training.checkpoint import RunFolder
from aurep.training.config import Config, check_config, parse_config
from aurep.training.progress import Progress
from aurep.training.runs import RunBusy, train, train_baseline

DIVERGED = "diverged.txt"


@dataclass(frozen=True)
class Cell:
    """One run of the comparison."""

    method: str
    budget: str
    seed: int

    def folder(self, root: Path) -> Path:
        method = re.sub(r"[^\w.]+", "_", self.method)
        return root / f"{method}-{self.budget.replace('%', 'pct')}-s{self.seed}"

    def baseline(self, root: Path) -> Path:
        """The folder of its teacher, which all cells of its seed share."""
        return root / f"baseline-s{self.seed}"

    def finished(self, root: Path) -> bool:
        return RunFolder(self.folder(root)).finished

    def diverged(self, root: Path) -> bool:
        return (self.folder(root) / DIVERGED).exists()

    def ended(self, root: Path) -> bool:
        return self.finished(root) or self.diverged(root)


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


def claimed(folder: Path, config: Config, progress: Progress, settles: bool = True) -> Config:
    """The recipe of all workers. The first one writes it, with what its machine makes of "auto"; the others take that,
    and check the rest of theirs against it, but for where the data lies.

    Without `settles`, this is no worker's machine: whoever comes first is yet to write it.

    Raises:
        AurepError: the folder is another recipe's.
    """
    path = folder / "recipe.toml"
    if not path.exists():
        if settles:
            config = settle(config, progress.say)
            write_text(path, config.to_toml())
        return config
    first = parse_config(path.read_text(), str(path))
    config = settled_like(config, first)
    if first.digest() != config.digest():
        raise AurepError(f"{folder} holds the comparison of another recipe; choose another folder with --out.")
    return config


def attempt(cell: Cell, config: Config, root: Path, console: Console | None) -> bool:
    """Run `cell` if nobody else does. True where it has ended."""
    if cell.ended(root):
        return True
    try:
        fields = config.model_dump(mode="json", exclude_none=True)
        if config.baseline.checkpoint is None:
            fields["baseline"]["checkpoint"] = str(train_baseline(config, cell.baseline(root), console))
        _train(check_config(fields), cell.folder(root), console)
    except RunBusy:
        return cell.finished(root)
    return True


def _train(config: Config, out: Path, console: Console | None) -> None:
    if console is not None:
        console.rule(out.name)
    try:
        train(config, out, resume=True, console=console)
    except Diverged as error:
        write_text(out / DIVERGED, f"{error}\n")
