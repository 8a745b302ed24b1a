"""Training runs: `train` makes one, `load_run` reads one back."""

from aurep.training.pipeline import RunResult
from aurep.training.runs import Run, load_run, train

__all__ = ["Run", "RunResult", "load_run", "train"]
