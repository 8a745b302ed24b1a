"""What private inference of finished runs costs, by the cost model of `aurep inspect`.

Runs of one network differ in masks and degrees alone. So the network is exported and counted once, with all ReLUs kept,
and each run's sites are put into that count as its export would have them (see `aurep.validators.outlook`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch

from aurep.exporters import export
from aurep.surgery import hybrid_sites
from aurep.training import load_run
from aurep.training.reading import Run
from aurep.validators.estimate import Work, count_work
from aurep.validators.outlook import foresee


class RunCosts:
    """Called with the folder of a finished run, gives rows of `framework`, `protocol`, `bytes`, `weight_opening` and
    `rounds` (None where they are not known), as `aurep inspect` does of the exported file.
    """

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}

    def __call__(self, folder: Path) -> list[dict[str, Any]]:
        run = load_run(folder)
        network = f"{run.config.model!r} {run.result.input.shape} {len(run.result.classes)}"
        if network not in self._works:
            self._works[network] = _counted(run)
        return foresee(self._works[network], [site.to_dict() for site in run.result.sites])


def _counted(run: Run) -> Work:
    for site in hybrid_sites(run.model):
        site.set_mask(torch.ones(site.shape))
    with tempfile.TemporaryDirectory() as folder:
        return count_work(onnx.load(export(run.model, run.example_input, Path(folder) / "model.onnx")))
