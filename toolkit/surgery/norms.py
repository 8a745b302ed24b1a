"""Batch norms over the images of all ranks: a distributed run trains what one process would with the whole batch.

torch's own SyncBatchNorm is for GPUs alone. Forward normalises by the mean and variance over all ranks; backward needs
sum g and sum g (z - mean) over all ranks (`aurep.surgery.fusion` has the maths). As there, what is returned is
another graph over the same modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from aurep.distributed import rank_count, sum_over_ranks
from aurep.kernels import Norm, kernels_for
from aurep.kernels.eager import per_channel, widen
from aurep.surgery.tracing import Untraceable, trace


class Batch:
    """A batch norm's statistics of this batch; its running ones move as nn.BatchNorm2d moves them."""

    @torch.no_grad()
    def __init__(self, norm: Any, z: Tensor) -> None:
        self.weight: Tensor = norm.weight
        self.bias: Tensor = norm.bias
        self.mean, variance = batch_statistics(z.detach())
        self.inverse = torch.rsqrt(variance + norm.eps)
        if norm.track_running_stats:
            count = values_per_channel(z)
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(self.mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)


def batch_statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel over all ranks, whose batches are equally large."""
    mean, variance = kernels_for(z).statistics(z)
    ranks = rank_count()
    if ranks == 1:
        return mean, variance
    middle = sum_over_ranks(mean) / ranks
    return middle, sum_over_ranks(variance + (mean - middle).square()) / ranks


def values_per_channel(z: Tensor) -> int:
    return z.numel() // z.shape[1] * rank_count()


def is_batch_norm(module: Any) -> bool:
    """With weights, and running statistics that move by a fixed share."""
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.affine and module.momentum is not None


def norm_input_gradient(
    du: Tensor,
    z: Tensor,
    norm: Norm,
    inverse: Tensor,
    total: Tensor,
    centred: Tensor,
    *,
    spent: bool = False,
) -> Tensor:
    """dL/dz from du, sum du and sum du (z - mean) over all ranks; `inverse` is 1 / sigma. A `spent` du may be
    overwritten."""
    share = norm.scale / -values_per_channel(z)
    b, c = share * inverse.square() * centred, share * total
    return kernels_for(z).norm_input(du, z, norm.mean, norm.scale, b, c, spent=spent)


class SyncedNorm(nn.Module):
    """A batch norm, owned by another network."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, z: Tensor) -> Tensor:
        return normalise(self.norm, z)


def normalise(norm: nn.Module, z: Tensor) -> Tensor:
    """norm(z), in training by the statistics of all ranks."""
    if rank_count() == 1 or not norm.training:
        normed: Tensor = norm(z)
        return normed
    batch = Batch(norm, z)
    parts = (batch.weight, batch.bias, batch.mean, batch.inverse)
    synced: Tensor = _SyncedFunction.apply(z, *parts)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return synced


class _SyncedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(z, weight, bias, mean, inverse)
        scaled = (widen(z) - per_channel(mean, z)) * per_channel(weight * inverse, z)
        return (scaled + per_channel(bias, z)).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, bias, mean, inverse = ctx.saved_tensors
        g, others = widen(grads[0]), (0, *range(2, z.dim()))
        total, centred = g.sum(others), (g * (widen(z) - per_channel(mean, z))).sum(others)
        everywhere = sum_over_ranks(torch.stack([total, centred]))
        grad_z = norm_input_gradient(g, z, Norm(mean, weight * inverse, bias), inverse, *everywhere)
        return grad_z, (centred * inverse).to(weight.dtype), total.to(bias.dtype), None, None


def sync_norms(model: nn.Module) -> nn.Module:
    """The network to train in place of `model` on several ranks; `model` itself where torch.fx cannot trace it."""
    try:
        graph = trace(model) if not isinstance(model, fx.GraphModule) else copied(model.graph)
    except Untraceable:
        return model
    synced = regraphed(model, graph)
    for node in list(synced.graph.nodes):
        if node.op == "call_module" and is_batch_norm(norm := synced.get_submodule(str(node.target))):
            name = f"synced_{node.name}"
            synced.add_submodule(name, SyncedNorm(norm))
            node.target = name
    synced.recompile()
    return synced.train(model.training)


def regraphed(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module that runs `graph` on the modules of `model`, and has all its parameters: also those of children that the
    graph does not call, whose gradients a distributed run must average too."""
    module = fx.GraphModule(model, graph)
    for name, child in model.named_children():
        if not hasattr(module, name):
            module.add_module(name, child)
    return module


def copied(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy
