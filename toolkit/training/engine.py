"""The one training loop. Baseline, search and finetune differ only in the `Phase` they hand it.

Everything random in a step derives from (seed, phase, epoch, step), the data order included, so a checkpoint is
weights, optimiser and counters, and a run resumed at any step continues as if it had never stopped (on CPU: bit for
bit).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from aurep.budget import ReluBudget
from aurep.data.loader import Loader
from aurep.errors import Collapsed, Diverged
from aurep.kernels import using
from aurep.modes import evaluating
from aurep.surgery import hybrid_sites, relu_sites
from aurep.training.checkpoint import RunFolder
from aurep.training.collapse import LargestInputs
from aurep.training.config import TrainConfig
from aurep.training.metrics import EpochRow, write_metrics
from aurep.training.moves import Moves, cut_warning
from aurep.training.optim import make_optimizer, set_learning_rate
from aurep.training.outcome import Outcome
from aurep.training.phase import Phase
from aurep.training.progress import Progress
from aurep.training.signals import Stopped, StopSignal
from aurep.training.step import runner, train_step
from aurep.training.trackers import Trackers

_LOOK_EVERY = 50  # steps between looks at the loss on the host: each look waits for the device


@dataclass
class Counters:
    """Where a phase stands; all of it goes into a checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss * n, correct, n
    seconds: float = 0.0


@dataclass
class Work:
    """A phase at work: what runs in its model's place, what moves it, what it ends with, where it stands."""

    phase: Phase
    model: nn.Module
    optimizer: Any
    outcome: Outcome
    counters: Counters
    moves: Moves | None  # where the phase has a policy
    steps: int = 0  # done by the end of the last epoch


class Engine:
    """Runs phases over one data set on one device (or one rank of several)."""

    def __init__(
        self, fabric: Fabric, folder: RunFolder, options: TrainConfig, progress: Progress, trackers: Trackers
    ) -> None:
        self.fabric, self.folder, self.options = fabric, folder, options
        self.progress, self.trackers = progress, trackers
        self.seed = options.seed
        self.checkpoint_seconds = options.checkpoint_minutes * 60 or float("inf")
        self.rows: list[EpochRow] = []

    def fit(self, phase: Phase, train: Loader, val: Loader | None, state: dict[str, Any] | None = None) -> None:
        """Train `phase.model` in place, from `state` (a checkpoint's) where given.

        Raises:
            Diverged: the loss became NaN or infinite.
            Collapsed: the phase ends far below `phase.standard`.
            Stopped: SIGTERM or SIGINT came; the checkpoint is written.
        """
        work = self._begin(phase, state)
        with using(self.options.kernels), StopSignal() as stop:
            for epoch in range(work.counters.epoch, phase.config.epochs):
                work.counters.epoch = epoch
                self._train_epoch(work, train, stop)
                with work.outcome.judged():
                    accuracies, inputs = self._validate(phase, val)
                    work.outcome.offer(accuracies)
                work.steps = (epoch + 1) * len(train)
                self._record(work, accuracies, inputs)
                work.counters = Counters(epoch=epoch + 1)
                self._save(work)
                if stop.received:
                    raise Stopped(stop.received)
        if phase.config.epochs:
            work.outcome.settle()
        if work.moves:
            self._project(work.moves)
        work.steps = phase.config.epochs * len(train)
        self._check_standing(work)

    def _project(self, moves: Moves) -> None:
        """The end of a search; its last row says how far it came by itself."""
        kept = moves.finish()
        if self.rows and self.rows[-1]["phase"] == "search":
            self.rows[-1]["kept_before_projection"] = kept
            if warning := cut_warning(kept, moves.policy.budget, moves.policy.total):
                self.progress.say(f"Warning: {warning}")

    def _validate(self, phase: Phase, val: Loader | None) -> tuple[list[float], dict[str, float]]:
        """Accuracies per width, and the largest input of every site; empty without a validation split."""
        if val is None or not len(val):
            return [], {}
        with LargestInputs(hybrid_sites(phase.model)) as largest:
            first = evaluate(phase.model, val)
        accuracies = [first, *(evaluate(narrow, val) for narrow in phase.narrower)]
        verdict: tuple[list[float], dict[str, float]] = self.fabric.broadcast((accuracies, largest.values))
        return verdict  # one for all ranks

    def _check_standing(self, work: Work) -> None:
        """A student that finetuning leaves collapsed is no result, nor is one that the search leaves beyond return."""
        phase = work.phase
        own = [row for row in self.rows if row["phase"] == phase.name]
        if phase.standard is None or not own:
            return
        row = max(own, key=_accuracy) if phase.choose_best else own[-1]
        exploded = phase.standard.exploded(row["inputs"])
        lost = phase.name == "finetune" or phase.standard.beyond_return(row["inputs"], hybrid_sites(phase.model))
        if lost and phase.standard.collapsed(_accuracy(row), work.steps, exploded):
            raise Collapsed(phase.standard.verdict(phase.name, _accuracy(row), row["inputs"]))
        if phase.name == "finetune" and (warning := phase.standard.unanswered(phase.name, row["inputs"])):
            self.progress.say(f"Warning: {warning}")

    def _begin(self, phase: Phase, state: dict[str, Any] | None) -> Work:
        """The phase before its first step, or where `state` left it."""
        policy_groups = phase.policy.parameter_groups() if phase.policy else []
        for site in hybrid_sites(phase.model):
            site.alpha.requires_grad_(any(p is site.alpha for group in policy_groups for p in group["params"]))
            if site.coefficients is not None:
                site.coefficients.requires_grad_(site.factors is None)
        optimizer = make_optimizer(phase.model, phase.config, policy_groups)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
        if phase.policy and state is None:
            phase.policy.start()
        elif phase.policy and state is not None:
            phase.policy.load_state_dict(state["policy"])
        model, wrapped = self.fabric.setup(runner(phase.model, self.options, self.fabric.world_size), optimizer)
        outcome = Outcome(phase.model, phase.config.ema, phase.choose_best, phase.measure)
        if state is not None:
            outcome.load_state_dict(state["outcome"])
        moves = Moves(phase.policy) if phase.policy else None
        if moves and state is not None:
            moves.back.copy_(state["back"])
        counters = Counters() if state is None else Counters(**state["counters"])
        return Work(phase, model, wrapped, outcome, counters, moves)

    def _train_epoch(self, work: Work, loader: Loader, stop: StopSignal) -> None:
        phase, counters = work.phase, work.counters
        phase.model.train()
        length, steps = len(loader), phase.config.epochs * len(loader)
        totals = torch.tensor(counters.totals, dtype=torch.float64, device=self.fabric.device)
        before, started = counters.seconds, time.perf_counter()
        saved = started
        for step, (x, y) in enumerate(loader.epoch(counters.epoch, counters.step), counters.step):
            torch.manual_seed(derive(self.seed, phase.name, counters.epoch, step))
            done = counters.epoch * length + step
            set_learning_rate(work.optimizer, phase.config, done, steps)
            totals += train_step(self.fabric, phase, work.model, work.optimizer, x, y, self.options.accumulate)
            work.outcome.follow()
            if phase.policy and work.moves:
                phase.policy.after_step((done + 1) / steps)
                work.moves.follow()
            self.progress.step(phase.name, counters.epoch, step + 1, length)
            counters.step = step + 1
            if step % _LOOK_EVERY == 0:
                self._check_finite(totals, phase, loader, step + 1)
            now = time.perf_counter()
            if stop.received or now - saved > self.checkpoint_seconds:
                saved = now
                counters.totals, counters.seconds = totals.tolist(), before + now - started
                self._save(work)
                if stop.received:
                    raise Stopped(stop.received)
        self._check_finite(totals, phase, loader, counters.step)
        counters.totals = totals.tolist()
        counters.seconds = before + time.perf_counter() - started

    def _check_finite(self, totals: Tensor, phase: Phase, loader: Loader, steps: int) -> None:
        """After `steps` of the epoch: is the loss a number, and, once they are several, was half of the images seen?"""
        loss, _, seen = totals.tolist()
        several = steps >= min(_LOOK_EVERY, len(loader))
        if not math.isfinite(loss) or (several and seen * self.fabric.world_size < steps * loader.batch_size / 2):
            raise Diverged(
                f"the loss of {phase.name} became NaN or infinite by step {steps}; lower {phase.name}.lr "
                f"({phase.config.lr}), or set {phase.name}.clip_norm."
            )

    def _record(self, work: Work, accuracies: Sequence[float], inputs: dict[str, float]) -> None:
        phase, counters = work.phase, work.counters
        totals = torch.tensor(counters.totals, dtype=torch.float64, device=self.fabric.device)
        totals = torch.as_tensor(self.fabric.all_reduce(totals, reduce_op="sum"))
        loss, correct, seen = totals.tolist()
        sites = relu_sites(phase.model)
        row: EpochRow = {
            "phase": phase.name,
            "epoch": counters.epoch + 1,
            "lr": work.optimizer.param_groups[0]["lr"],
            "train_loss": loss / seen,
            "train_accuracy": 100 * correct / seen,
            "val_accuracy": accuracies[0] if accuracies else None,
            "relu_count": ReluBudget.of(sites).relu_count if sites else None,
            "seconds": counters.seconds,
            "images_per_second": seen / counters.seconds,
            "kept": {site.name: site.kept for site in sites},
            "inputs": inputs,
        }
        if work.moves:
            row["recovered"] = work.moves.recovered()
        if phase.narrower:
            found = zip(phase.narrower, accuracies[1:], strict=False)  # none without a validation split
            row["narrower"] = {f"{narrow.width_multiplier:g}": accuracy for narrow, accuracy in found}
        self.rows.append(row)
        self.trackers.epoch(self.rows)
        self.progress.epoch(row, phase.config.epochs)
        standard, hybrids = phase.standard, hybrid_sites(phase.model)
        if standard and standard.collapsed(_accuracy(row), work.steps, standard.beyond_return(inputs, hybrids)):
            self.progress.say(f"Warning: {standard.verdict(phase.name, _accuracy(row), inputs)}")

    def _save(self, work: Work) -> None:
        policy = work.phase.policy
        state = {
            "phase": work.phase.name,
            "counters": vars(work.counters),
            "optimizer": work.optimizer.state_dict(),
            "policy": policy.state_dict() if policy else {},
            "back": work.moves.back if work.moves else None,
            "outcome": work.outcome.state_dict(),
            "rows": self.rows,
        }
        if self.fabric.is_global_zero:
            self.folder.save_checkpoint(work.phase.model, state)
            write_metrics(self.folder.metrics, self.rows)


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed for one purpose, independent of the others of the same run."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def evaluate(model: nn.Module, loader: Loader) -> float:
    """Top-1 accuracy in percent over all of `loader`."""
    correct = seen = 0
    with evaluating(model), torch.no_grad():
        hits = []
        for x, y in loader.epoch(0):
            hits.append((model(x).argmax(1) == y).sum())
            seen += len(y)
        correct = int(torch.stack(hits).sum())
    return 100 * correct / seen


def _accuracy(row: EpochRow) -> float:
    """On the validation split, in training where there is none."""
    return row["train_accuracy"] if row["val_accuracy"] is None else row["val_accuracy"]
