"""Training runs: `train` makes one, `load_run` reads one back."""

from aurep.results import RunResult
from aurep.training.reading import Run, load_run
from aurep.training.runs import train

__all__ = ["Run", "RunResult", "load_run", "train"]
