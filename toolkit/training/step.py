"""One optimiser step: the logits of the network and the narrower ones, the loss, the gradients, the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from aurep.activation import follow
from aurep.surgery import fuse, hybrid_sites, recomputed, sync_norms
from aurep.training.config import StudentConfig, TrainConfig
from aurep.training.losses import distillation
from aurep.training.phase import Phase


def runner(model: nn.Module, options: TrainConfig, ranks: int) -> nn.Module:
    """What is run in place of `model`: the very same modules, compiled or fused as configured."""
    if options.fuse is True and options.compile == "no":  # a compiler finds its own fusions
        model = fuse(model)
    if ranks > 1:
        model = sync_norms(model)
    if options.checkpoint_activations:
        model = recomputed(model)
    if options.compile != "no":
        return cast(nn.Module, torch.compile(model, mode=options.compile))
    return model


def train_step(
    fabric: Fabric, phase: Phase, model: nn.Module, optimizer: Any, x: Tensor, y: Tensor, parts: int = 1
) -> Tensor:
    """Run `model` (the phase's, or what runs in its place) on a batch, in `parts` whose gradients add up, and step.

    Where gradients are clipped, one that is infinite or NaN counts as none, and its batch as unseen: an image that
    drives a polynomial beyond fp32 costs its batch, and not the network.

    Returns:
        (loss * n, correct, n), on the device; zeros for such a batch.
    """
    optimizer.zero_grad()
    pieces = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
    totals = []
    for number, (some_x, some_y) in enumerate(pieces, start=1):
        with fabric.no_backward_sync(cast(Any, model), enabled=number < len(pieces)):
            totals.append(_gradients(fabric, phase, model, some_x, some_y, len(some_x) / len(x)))
    sites = hybrid_sites(phase.model)
    result = torch.stack(totals).sum(0)
    if phase.config.clip_norm:
        indicators = {id(site.alpha) for site in sites}
        own = [p for p in phase.model.parameters() if id(p) not in indicators]
        norm = nn.utils.clip_grad_norm_(own, phase.config.clip_norm)
        result = _unseen(phase.model, ~torch.isfinite(norm), result)
    optimizer.step()
    follow(sites)
    return result


def _unseen(model: nn.Module, whether: Tensor, totals: Tensor) -> Tensor:
    """`totals`; where `whether` (a scalar on the device), zeros, and no gradients."""
    if whether.is_cpu and not whether:
        return totals
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.masked_fill_(whether, 0)
    return totals.masked_fill(whether, 0)


def _gradients(fabric: Fabric, phase: Phase, model: nn.Module, x: Tensor, y: Tensor, share: float) -> Tensor:
    """Add the gradients of (x, y), which is `share` of the step's batch. Returns (loss * n, correct, n)."""
    logits = model(x)
    with fabric.autocast():
        others = [narrow(x) for narrow in phase.narrower]
    loss = _loss(fabric, phase, [logits, *others], x, y)
    fabric.backward(loss if share == 1 else loss * share)
    correct = (logits.detach().argmax(1) == (y.argmax(1) if y.dim() == 2 else y)).sum().double()  # y may be mixed
    return torch.stack([loss.detach().double() * len(y), correct, torch.full_like(correct, len(y))])


def _loss(fabric: Fabric, phase: Phase, outputs: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The loss of all `outputs`, the full network's and the narrower ones', summed, and the terms."""
    config, taught = phase.config, None
    if phase.teacher is not None:
        taught = _taught(fabric, phase, phase.teacher, x)
    losses = []
    for logits in outputs:
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


def _taught(fabric: Fabric, phase: Phase, teacher: nn.Module, x: Tensor) -> Tensor:
    """The teacher's logits. Where somebody keeps what hooks on it see, those must be ordinary tensors."""
    hooked = bool(phase.terms) or (phase.policy is not None and phase.policy.uses_teacher)
    with torch.no_grad() if hooked else torch.inference_mode(), fabric.autocast():
        logits: Tensor = teacher(x)
    return logits.clone()  # outside: an inference tensor cannot be saved for backward
