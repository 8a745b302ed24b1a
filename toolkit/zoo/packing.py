"""A run made an entry of the zoo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from aurep.data.loader import make_loader
from aurep.errors import AurepError
from aurep.exporters import export_run
from aurep.files import folder_beside, write_text
from aurep.results import RunResult, read_result
from aurep.training import Run, load_run
from aurep.training.checkpoint import RunFolder, read_weights, save_weights
from aurep.training.engine import evaluate
from aurep.training.reading import read_config
from aurep.validators import validate
from aurep.zoo import CARD, COSTS, PREFIX, in_words


def add(run: Path, destination: Path, data_dir: Path | None = None, costs: Sequence[dict[str, Any]] = ()) -> RunResult:
    """Make the finished run in folder `run` the zoo's entry `destination`, a folder that is not there yet.

    Polynomials and batch norms keep their precision. Accuracies are measured with the rounded weights, on the run's
    validation and test images from `data_dir` (default: where the run found them). What the card tells its readers to
    do is done once: the entry is exported and validated, with the data set at hand and without.

    Args:
        costs: what private inference of it costs, as `aurep.costs.RunCosts` counts it, to be listed with it.

    Raises:
        AurepError: no finished run, weights beyond fp16, the data set is not at hand, the file does not validate, or
            `destination` exists.
    """
    if destination.exists():
        raise AurepError(f"{destination} exists; take another name, or remove it first.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(destination) as made:
        _pack(run, made)
        at = data_dir or read_config(run).data.dir
        result = _measured(load_run(made, at))
        result.write()
        _try(made, f"{PREFIX}{destination.name}", at)
        write_text(made / COSTS, json.dumps([*costs], indent=2) + "\n")
        write_text(made / CARD, _card(destination.name, result, costs))
        made.rename(destination)
    return result


def _pack(run: Path, folder: Path) -> None:
    source, target = RunFolder(run), RunFolder(folder)
    result = read_result(run)
    indicators = {f"{site.name}.alpha" for site in result.sites}  # the masks have been decided
    weights = {name: tensor for name, tensor in read_weights(source.model).items() if name not in indicators}
    save_weights(target.model, {name: _rounded(name, tensor, run) for name, tensor in weights.items()})
    config = read_config(run)
    data = config.data.model_copy(update={"dir": None})  # where it lay is nobody else's business
    baseline = config.baseline.model_copy(update={"checkpoint": None})  # nor where the teacher did
    config = config.model_copy(update={"data": data, "baseline": baseline})
    write_text(target.config, config.to_toml())
    shutil.copyfile(source.metrics, target.metrics)  # and no samples: they are images of a data set
    training = result.training.model_copy(update={"config_sha256": config.digest()})
    result.model_copy(update={"run_dir": folder, "training": training}).write()


def _rounded(name: str, tensor: Tensor, run: Path) -> Tensor:
    if not tensor.is_floating_point() or tensor.dim() < 2 or name.endswith(".coefficients"):
        return tensor
    half = tensor.half()
    if not bool(torch.isfinite(half).all()):
        raise AurepError(
            f"weight {name!r} of {run} does not fit fp16, so it cannot go to the zoo; export the run itself."
        )
    return half


def _measured(run: Run) -> RunResult:
    """The run's result with its accuracies measured again."""
    splits = ("val", "test") if len(run.images.y_val) else ("test",)
    found = {
        f"{split}_accuracy": evaluate(run.model, make_loader(run.images, split, batch_size=500, train=False))
        for split in splits
    }
    if run.result.relu_count == run.result.relu_total:
        found |= {f"teacher_{name}": value for name, value in found.items()}  # the same network
    return run.result.model_copy(update={"training": run.result.training.model_copy(update=found)})


def _try(entry: Path, name: str, data_dir: str | Path | None) -> None:
    """Export and validate `entry` as those who have its data set do, and as those do who have not."""
    with TemporaryDirectory() as folder:
        empty = Path(folder) / "no-data"
        empty.mkdir()
        for at, data, whose in ((data_dir, read_config(entry).data.name, ""), (empty, None, " without its data set")):
            file = export_run(entry, Path(folder) / f"bundle{whose}", data_dir=at)
            report = validate(file.parent, run=entry, data=data, data_dir=at)
            failed = [check for check in report.checks if not check.passed]
            if failed:
                found = "; ".join(f"{check.name}: {check.measured}, allowed {check.allowed}" for check in failed)
                raise AurepError(
                    f"{name} would not be what its card says: exported{whose}, it fails aurep validate ({found}). "
                    "Train it further, or export the run itself."
                )


def _card(name: str, result: RunResult, costs: Sequence[dict[str, Any]]) -> str:
    claim = result.training
    kept = f"{result.relu_count:,} of {result.relu_total:,} ReLU elements"
    alone = result.relu_count == result.relu_total
    teacher = "" if alone else f"; its all-ReLU teacher: {result.teacher_test_accuracy:.2f} %"
    how = f"seed {claim.seed}" if alone else f"method {claim.method}, seed {claim.seed}"
    shape = " x ".join(map(str, result.input.shape))
    use = f"aurep train RECIPE --teacher {PREFIX}{name}" if alone else f"aurep handoff {name}-bundle"
    counted = [f"{each['framework']} {each['protocol']} {in_words(each)}" for each in costs]
    paid = f"- one private inference, as `aurep inspect` counts it: {'; '.join(counted)}\n" if counted else ""
    return f"""# {name}

{claim.model} on {claim.data}, {kept}, trained with aurep ({how}, {result.finished}).

- test accuracy, with these fp16 weights: **{result.test_accuracy:.2f} %**{teacher}
{paid}- images of {shape}, normalised as `run.json` says; {len(result.classes)} classes
- `config.toml` is the run's configuration, which `aurep train` takes; `metrics.csv` has what every epoch measured

```sh
aurep validate {PREFIX}{name} --data-dir DIR     # measures the accuracy above again
aurep export {PREFIX}{name} -o {name}-bundle
{use}
```
"""
