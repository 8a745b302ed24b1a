"""The one training loop. Baseline, search and finetune differ only in the `Phase` they hand it.

Everything random in a step derives from (seed, phase, epoch, step), the data order included, so a checkpoint is
weights, optimiser and counters, and a run resumed at any step continues as if it had never stopped (on CPU: bit for
bit).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from aurep.budget import ReluBudget
from aurep.data.loader import Loader
from aurep.errors import Diverged
from aurep.kernels import using
from aurep.modes import evaluating
from aurep.search import Policy
from aurep.surgery import Narrow, fuse, hybrid_sites, relu_sites, sync_norms
from aurep.training.average import Average
from aurep.training.checkpoint import RunFolder, portable
from aurep.training.config import PhaseConfig, StudentConfig, TrainConfig
from aurep.training.losses import LossTerm, distillation
from aurep.training.metrics import EpochRow, write_metrics
from aurep.training.optim import make_optimizer, set_learning_rate
from aurep.training.progress import Progress
from aurep.training.signals import Stopped, StopSignal

_LOOK_EVERY = 50  # steps between looks at the loss on the host: each look waits for the device


@dataclass
class Phase:
    """What to train and how.

    Args:
        name: "baseline", "search" or "finetune".
        model: trained in place.
        config: rates, epochs, loss weights.
        teacher: frozen, in eval mode, run in every step after the model; None for the baseline.
        policy: moves the masks; None leaves them alone.
        terms: added to the loss.
        upkeep: done to the model `upkeeps` times, evenly spread over the phase's steps.
        choose_best: end with the epoch of highest validation accuracy (mean with `narrower`'s) instead of the last.
        narrower: `model` at smaller widths, which share its weights: in every step the loss of each is added.
    """

    name: str
    model: nn.Module
    config: PhaseConfig
    teacher: nn.Module | None = None
    policy: Policy | None = None
    terms: Sequence[LossTerm] = ()
    upkeep: Callable[[nn.Module], None] | None = None
    upkeeps: int = 0
    choose_best: bool = False
    narrower: Sequence[Narrow] = ()
    average: Average | None = None  # made by the engine


@dataclass
class Counters:
    """Where a phase stands; all of it goes into a checkpoint."""

    epoch: int = 0
    step: int = 0  # within the epoch
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss * n, correct, n
    seconds: float = 0.0
    best_accuracy: float = -1.0


class Engine:
    """Runs phases over one data set on one device (or one rank of several)."""

    def __init__(self, fabric: Fabric, folder: RunFolder, options: TrainConfig, progress: Progress) -> None:
        self.fabric, self.folder, self.options, self.progress = fabric, folder, options, progress
        self.seed = options.seed
        self.checkpoint_seconds = options.checkpoint_minutes * 60 or float("inf")
        self.rows: list[EpochRow] = []

    def fit(self, phase: Phase, train: Loader, val: Loader | None, state: dict[str, Any] | None = None) -> None:
        """Train `phase.model` in place, from `state` (a checkpoint's) where given.

        Raises:
            Diverged: the loss became NaN or infinite.
            Stopped: SIGTERM or SIGINT came; the checkpoint is written.
        """
        policy_groups = phase.policy.parameter_groups() if phase.policy else []
        for site in hybrid_sites(phase.model):
            site.alpha.requires_grad_(any(p is site.alpha for group in policy_groups for p in group["params"]))
        optimizer = make_optimizer(phase.model, phase.config, policy_groups)
        counters, best = Counters(), None
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            counters, best = Counters(**state["counters"]), state["best"]
            if phase.policy:
                phase.policy.load_state_dict(state["policy"])
        model, wrapped = self.fabric.setup(self._runner(phase.model), optimizer)
        phase.average = Average(phase.model, phase.config.ema) if phase.config.ema else None
        if phase.average and state is not None:
            phase.average.load_state_dict(state["average"])
        with using(self.options.kernels), StopSignal() as stop:
            for epoch in range(counters.epoch, phase.config.epochs):
                counters.epoch = epoch
                self._train_epoch(phase, model, wrapped, train, counters, stop, best)
                if phase.policy:
                    phase.policy.after_epoch(epoch)
                with phase.average.applied() if phase.average else nullcontext():
                    networks = (phase.model, *phase.narrower)
                    accuracies = [evaluate(each, val) for each in networks] if val is not None and len(val) else []
                    accuracies = self.fabric.broadcast(accuracies)  # one verdict for all ranks
                    if phase.choose_best and accuracies and mean(accuracies) > counters.best_accuracy:
                        counters.best_accuracy, best = mean(accuracies), portable(phase.model)
                self._record(phase, counters, accuracies, wrapped)
                counters = Counters(epoch=epoch + 1, best_accuracy=counters.best_accuracy)
                self._save(phase, wrapped, counters, best)
                if stop.received:
                    raise Stopped(stop.received)
        if phase.average:
            phase.average.swap()
        if best is not None:
            phase.model.load_state_dict(best)
        if phase.policy:
            phase.policy.finish()

    def _runner(self, model: nn.Module) -> nn.Module:
        """What is run in place of `model`: the very same modules, compiled or fused as configured."""
        if self.options.fuse and self.options.compile == "no":  # a compiler finds its own fusions
            model = fuse(model)
        if self.fabric.world_size > 1:
            model = sync_norms(model)
        if self.options.compile != "no":
            return cast(nn.Module, torch.compile(model, mode=self.options.compile))
        return model

    def _train_epoch(
        self,
        phase: Phase,
        model: nn.Module,
        optimizer: Any,
        loader: Loader,
        counters: Counters,
        stop: StopSignal,
        best: dict[str, Tensor] | None,
    ) -> None:
        phase.model.train()
        length = len(loader)
        totals = torch.tensor(counters.totals, dtype=torch.float64, device=self.fabric.device)
        before, started = counters.seconds, time.perf_counter()
        saved = started
        batches: Iterator[tuple[Tensor, Tensor]] = loader.epoch(counters.epoch, counters.step)
        for step, (x, y) in enumerate(batches, counters.step):
            torch.manual_seed(derive(self.seed, phase.name, counters.epoch, step))
            done = counters.epoch * length + step
            set_learning_rate(optimizer, phase.config, done, phase.config.epochs * length)
            totals += self._step(phase, model, optimizer, x, y)
            if phase.policy:
                phase.policy.after_step((done + 1) / (phase.config.epochs * length))
            if phase.upkeep and _is_due(done + 1, phase.config.epochs * length, phase.upkeeps):
                phase.upkeep(phase.model)
            self.progress.step(phase.name, counters.epoch, step + 1, length)
            counters.step = step + 1
            if step % _LOOK_EVERY == 0:
                _check_finite(totals, phase, step)
            now = time.perf_counter()
            if stop.received or now - saved > self.checkpoint_seconds:
                saved = now
                counters.totals, counters.seconds = totals.tolist(), before + now - started
                self._save(phase, optimizer, counters, best)
                if stop.received:
                    raise Stopped(stop.received)
        _check_finite(totals, phase, counters.step)
        counters.totals = totals.tolist()
        counters.seconds = before + time.perf_counter() - started

    def _step(self, phase: Phase, model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> Tensor:
        """One optimiser step; returns (loss * n, correct, n) on the device."""
        logits = model(x)
        with self.fabric.autocast():
            others = [narrow(x) for narrow in phase.narrower]
        loss = self._loss(phase, [logits, *others], x, y)
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if phase.config.clip_norm:
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.dim() > 1], phase.config.clip_norm)
        optimizer.step()
        if phase.average:
            phase.average.update()
        correct = (logits.detach().argmax(1) == (y.argmax(1) if y.dim() == 2 else y)).sum().double()  # y may be mixed
        return torch.stack([loss.detach().double() * len(y), correct, torch.full_like(correct, len(y))])

    def _loss(self, phase: Phase, widths: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The loss of the logits of all `widths`, summed, and the terms."""
        config, taught = phase.config, None
        if phase.teacher is not None:
            taught = self._taught(phase, phase.teacher, x)
        losses = []
        for logits in widths:
            loss = F.cross_entropy(logits.float(), y, label_smoothing=config.label_smoothing)
            if isinstance(config, StudentConfig):
                loss = config.ce_weight * loss
                if taught is not None and config.kd_weight:
                    loss = loss + config.kd_weight * distillation(logits, taught, config.temperature)
            losses.append(loss)
        loss = torch.stack(losses).sum()
        for term in phase.terms:
            loss = loss + term()
        if phase.policy and (penalty := phase.policy.penalty()) is not None:
            loss = loss + penalty
        return loss

    def _taught(self, phase: Phase, teacher: nn.Module, x: Tensor) -> Tensor:
        """The teacher's logits. Where somebody keeps what hooks on it see, those must be ordinary tensors."""
        hooked = bool(phase.terms) or (phase.policy is not None and phase.policy.uses_teacher)
        with torch.no_grad() if hooked else torch.inference_mode(), self.fabric.autocast():
            logits: Tensor = teacher(x)
        return logits.clone()  # outside: an inference tensor cannot be saved for backward

    def _record(self, phase: Phase, counters: Counters, accuracies: Sequence[float], optimizer: Any) -> None:
        totals = torch.tensor(counters.totals, dtype=torch.float64, device=self.fabric.device)
        totals = torch.as_tensor(self.fabric.all_reduce(totals, reduce_op="sum"))
        loss, correct, seen = totals.tolist()
        sites = relu_sites(phase.model)
        row: EpochRow = {
            "phase": phase.name,
            "epoch": counters.epoch + 1,
            "lr": optimizer.param_groups[0]["lr"],
            "train_loss": loss / seen,
            "train_accuracy": 100 * correct / seen,
            "val_accuracy": accuracies[0] if accuracies else None,
            "relu_count": ReluBudget.of(sites).relu_count if sites else None,
            "seconds": counters.seconds,
            "images_per_second": seen / counters.seconds,
        }
        if phase.narrower:
            found = zip(phase.narrower, accuracies[1:], strict=False)  # none without a validation split
            row["narrower"] = {f"{narrow.width_multiplier:g}": accuracy for narrow, accuracy in found}
        self.rows.append(row)
        self.progress.epoch(row, phase.config.epochs)

    def _save(self, phase: Phase, optimizer: Any, counters: Counters, best: dict[str, Tensor] | None) -> None:
        state = {
            "phase": phase.name,
            "counters": vars(counters),
            "optimizer": optimizer.state_dict(),
            "policy": phase.policy.state_dict() if phase.policy else {},
            "average": phase.average.state_dict() if phase.average else {},
            "best": best,
            "rows": self.rows,
        }
        if self.fabric.is_global_zero:
            self.folder.save_checkpoint(phase.model, state)
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


def _is_due(step: int, steps: int, times: int) -> bool:
    """Whether one of `times` moments that divide 0..steps evenly has just been reached or passed."""
    return step * (times + 1) // steps > (step - 1) * (times + 1) // steps and step < steps


def _check_finite(totals: Tensor, phase: Phase, step: int) -> None:
    if not bool(torch.isfinite(totals[0])):
        raise Diverged(
            f"the loss of {phase.name} became NaN or infinite by step {step}; lower {phase.name}.lr "
            f"({phase.config.lr}), or set {phase.name}.clip_norm."
        )
