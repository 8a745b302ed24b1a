"""Training runs: `train` makes one, `load_run` reads one back. For loops of one's own, what such a loop needs."""

from aurep.results import RunResult
from aurep.training.losses import distillation
from aurep.training.own_loop import start_policy, student_optimizer
from aurep.training.reading import Run, load_run
from aurep.training.runs import train

__all__ = ["Run", "RunResult", "distillation", "load_run", "start_policy", "student_optimizer", "train"]
