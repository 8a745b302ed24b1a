"""Layer sensitivities of SENet: how much of a layer's weights a pruned network does without.

eta_l = 1 - d_l, with d_l the density of layer l after pruning the whole network to a low global density: a layer that
keeps few weights leans on its ReLUs instead. The pruned network is the teacher's with its weights of least magnitude,
over all layers at once, set to zero.

Source: Kundu et al., "Learning to Linearize Deep Neural Networks for Secure and Efficient Private Inference" (SENet),
ICLR 2023. They train the pruned network; an own one comes in as its sensitivities (`eta`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from aurep.errors import AurepError


def layer_weights(network: nn.Module, activations: Sequence[nn.Module]) -> list[list[Tensor]]:
    """Per activation, the weights of the convolutions and linear maps that run between the one before and it."""
    groups: list[list[Tensor]] = []
    since: list[Tensor] = []
    for module in _in_order(network):
        if any(module is activation for activation in activations):
            groups.append(since)
            since = []
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            since.append(module.weight.detach())
    return groups


def _in_order(network: nn.Module) -> Iterator[nn.Module]:
    if not isinstance(network, fx.GraphModule):
        return network.modules()
    return (network.get_submodule(str(node.target)) for node in network.graph.nodes if node.op == "call_module")


def magnitude_sensitivities(groups: Sequence[Sequence[Tensor]], density: float) -> list[float]:
    """eta per layer, where the share `density` of all weights in `groups` stays: the largest."""
    layers = [torch.cat([weight.abs().flatten() for weight in group]) if group else None for group in groups]
    empty = [str(number) for number, layer in enumerate(layers) if layer is None]
    if empty:
        raise AurepError(
            f"no convolution or linear layer runs before activation {', '.join(empty)} (counted from 0), so senet "
            "cannot measure its sensitivity; give search.options.eta, one number per activation."
        )
    magnitudes = torch.cat([layer for layer in layers if layer is not None])
    kept = torch.zeros_like(magnitudes, dtype=torch.bool)
    kept[torch.topk(magnitudes, max(1, round(density * len(magnitudes))), sorted=False).indices] = True
    parts = torch.split(kept, [len(layer) for layer in layers if layer is not None])
    return [1.0 - float(part.double().mean()) for part in parts]
