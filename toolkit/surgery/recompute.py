"""Activation checkpointing: training keeps what passes between segments of a network, and computes the rest twice.

A segment ends where a single tensor is alive, that is between residual blocks, and holds at least two layers with
weights. Its input is all that is kept of it; backward runs it once more, as `torch.utils.checkpoint` does (Chen et
al., "Training Deep Nets with Sublinear Memory Cost", 2016). The last segment is not checkpointed: backward begins with
it, so that nothing would be gained.

The second run must leave no trace. Buffers, such as the running statistics of batch norms, are put back after it, and
what hooks gather in it is what they gathered before. As in `aurep.surgery.fusion`, what is returned is another graph
over the same modules.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.surgery.norms import copied, regraphed
from aurep.surgery.tracing import Untraceable, is_in_place, trace

_LAYERS = 2  # with weights, at least, in a segment
_IN_PLACE_SUMS = (operator.iadd, operator.imul, operator.isub)


class Recomputed(nn.Module):
    """`segment`, of which nothing but its inputs is kept for backward."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *inputs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return self.segment(*inputs)
        return checkpoint(self.segment, *inputs, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _unchanged(self._buffers_of_norms())

    def _buffers_of_norms(self) -> list[Tensor]:
        """Those that a forward may change; a site's masks it does not."""
        modules = [module for module in self.segment.modules() if not isinstance(module, HybridActivation)]
        return [buffer for module in modules for buffer in module.buffers(recurse=False)]


@contextmanager
def _unchanged(buffers: list[Tensor]) -> Iterator[None]:
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def recomputed(model: nn.Module) -> nn.Module:
    """The network to train in place of `model`: same modules, parameters and results, less memory, more work.

    Raises:
        AurepError: torch.fx cannot trace it.
    """
    try:
        graph = copied(model.graph) if isinstance(model, fx.GraphModule) else trace(model)
    except Untraceable as reason:
        raise AurepError(f"{reason}, so its activations cannot be checkpointed; leave it out.") from None
    whole = regraphed(model, graph)
    segment_of = _segments(whole)
    last = max(segment_of.values(), default=0)
    split = split_module(whole, whole, segment_of.__getitem__, keep_original_order=True)
    for name, child in list(split.named_children()):
        if name.startswith("submod_") and name != f"submod_{last}":
            setattr(split, name, Recomputed(child))
    for name, child in whole.named_children():  # also what the graph does not call
        if not hasattr(split, name):
            split.add_module(name, child)
    return split.train(model.training)


def _segments(module: fx.GraphModule) -> dict[fx.Node, int]:
    """The number of every operation's segment."""
    nodes = [node for node in module.graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    position = {node: i for i, node in enumerate(nodes)}
    dies = {
        node: max((position.get(user, len(nodes)) for user in node.users), default=i) for node, i in position.items()
    }
    found: dict[fx.Node, int] = {}
    segment = layers = 0
    for i, node in enumerate(nodes):
        found[node] = segment
        layers += _has_weights(module, node)
        alive = [other for other in nodes[: i + 1] if dies[other] > i]
        if layers >= _LAYERS and alive == [node] and _safe(module, node):
            segment, layers = segment + 1, 0
    return found


def _has_weights(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    return any(weight.dim() > 1 for weight in module.get_submodule(str(node.target)).parameters(recurse=False))


def _safe(module: fx.GraphModule, node: fx.Node) -> bool:
    """Nothing writes into the value: a segment could not run twice on what it overwrites."""
    return not any(is_in_place(user, module) or user.target in _IN_PLACE_SUMS for user in node.users)
