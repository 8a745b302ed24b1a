"""Trained networks that a clone of the repository brings along: `zoo/NAME`, named `zoo:NAME` on the command line.

Each is a run folder made small: weights of more than one dimension in fp16, no teacher, no checkpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.results import read_result
from aurep.training.checkpoint import RunFolder, read_weights, save_weights
from aurep.training.reading import read_config

PREFIX = "zoo:"


def resolve(name: str) -> Path:
    """The folder of `zoo:NAME`, in the clone that aurep is imported from or in the current folder.

    Raises:
        AurepError: there is none of that name.
    """
    wanted = name.removeprefix(PREFIX)
    homes = [Path(__file__).resolve().parent.parent / "zoo", Path("zoo").resolve()]
    known = sorted({entry.name for home in homes if home.is_dir() for entry in home.iterdir() if _is_whole(entry)})
    if wanted in known:
        return next(home / wanted for home in homes if _is_whole(home / wanted))
    found = f"the zoo here holds {', '.join(known)}" if known else "no zoo is here: it comes with a clone, not a wheel"
    raise AurepError(f"there is no {PREFIX}{wanted} ({found}); run this in a clone, or name a run folder.")


def _is_whole(folder: Path) -> bool:
    files = RunFolder(folder)
    return files.config.is_file() and files.model.is_file() and files.finished


def pack(run: Path, destination: Path) -> None:
    """Write the finished run in folder `run` as a zoo entry. Polynomials and batch norms keep their precision.

    Accuracies in its run.json stay the run's; `update_claims` replaces what was measured anew.
    """
    source, target = RunFolder(run), RunFolder(destination)
    destination.mkdir(parents=True, exist_ok=True)
    weights = {name: _rounded(name, tensor, run) for name, tensor in read_weights(source.model).items()}
    save_weights(target.model, weights)
    config = read_config(run)
    data = config.data.model_copy(update={"dir": None})  # where it lay is nobody else's business
    write_text(target.config, config.model_copy(update={"data": data}).to_toml())
    for name in ("samples.npz", "metrics.csv"):
        shutil.copyfile(run / name, destination / name)
    read_result(run).model_copy(update={"run_dir": destination}).write()


def _rounded(name: str, tensor: Tensor, run: Path) -> Tensor:
    if not tensor.is_floating_point() or tensor.dim() < 2 or name.endswith(".coefficients"):
        return tensor
    half = tensor.half()
    if not bool(torch.isfinite(half).all()):
        raise AurepError(
            f"weight {name!r} of {run} does not fit fp16, so it cannot go to the zoo; export the run itself."
        )
    return half


def update_claims(folder: Path, **accuracies: float) -> None:
    """Replace accuracies that `run.json` claims, such as test_accuracy=94.3, in percent."""
    result = read_result(folder)
    training = result.training.model_copy(update=accuracies)
    result.model_copy(update={"training": training}).write()
