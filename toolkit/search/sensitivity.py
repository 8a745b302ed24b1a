"""Layer sensitivities of SENet: how much of a layer's weights a pruned network does without.

eta_l = 1 - d_l, with d_l the density of layer l in a network that was pruned to a low global density: a layer that
keeps few weights leans on its ReLUs instead. The pruned network is either one that the user trained, a safetensors file
with the teacher's names and zeros where weights were pruned, or the teacher itself with its weights of least magnitude,
over all layers at once, set to zero.

Source: Kundu et al., "Learning to Linearize Deep Neural Networks for Secure and Efficient Private Inference" (SENet),
ICLR 2023, where the pruned network is a trained one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from aurep.errors import AurepError

Weights = Mapping[str, Tensor]


def layer_weights(network: nn.Module, activations: Sequence[nn.Module]) -> list[Weights]:
    """Per activation, by name, the weights of the convolutions and linear maps that run between the one before and it.

    Raises:
        AurepError: nothing runs before an activation.
    """
    groups: list[Weights] = []
    since: dict[str, Tensor] = {}
    for path, module in _in_order(network):
        if any(module is activation for activation in activations):
            groups.append(since)
            since = {}
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            since[f"{path}.weight"] = module.weight.detach()
    if empty := [str(number) for number, group in enumerate(groups) if not group]:
        raise AurepError(
            f"no convolution or linear layer runs before activation {', '.join(empty)} (counted from 0), so senet "
            "cannot measure its sensitivity; give search.options.eta, one number per activation."
        )
    return groups


def _in_order(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(network, fx.GraphModule):
        return iter(network.named_modules())
    calls = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    return ((path, network.get_submodule(path)) for path in calls)


def magnitude_sensitivities(groups: Sequence[Weights], density: float) -> list[float]:
    """eta per layer, where the share `density` of all weights in `groups` stays: the largest."""
    layers = [torch.cat([weight.abs().flatten() for weight in group.values()]) for group in groups]
    magnitudes = torch.cat(layers)
    kept = torch.zeros_like(magnitudes, dtype=torch.bool)
    kept[torch.topk(magnitudes, max(1, round(density * len(magnitudes))), sorted=False).indices] = True
    parts = torch.split(kept, [len(layer) for layer in layers])
    return [1.0 - float(part.double().mean()) for part in parts]


def pruned_sensitivities(groups: Sequence[Weights], pruned: Weights, origin: str) -> list[float]:
    """eta per layer from the zeros of `pruned`, which has a tensor for each of `groups`'.

    Raises:
        AurepError: a tensor is missing or of another shape; it belongs to another network.
    """
    for name, weight in ((name, weight) for group in groups for name, weight in group.items()):
        found = tuple(pruned[name].shape) if name in pruned else "missing"
        if found != tuple(weight.shape):
            raise AurepError(
                f"{name} is {found} in {origin} but {tuple(weight.shape)} in the teacher; search.options.pruned takes "
                "weights of the same network."
            )
    return [
        1.0 - sum(int(pruned[name].count_nonzero()) for name in group) / sum(w.numel() for w in group.values())
        for group in groups
    ]


def read_pruned(path: str) -> Weights:
    """The tensors of a pruned network. Raises AurepError where the file cannot be read or holds no zeros."""
    if not Path(path).is_file():
        raise AurepError(f"search.options.pruned: {path} does not exist; expected a safetensors file.")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AurepError(f"search.options.pruned: {path} is not a readable safetensors file ({error}).") from None
    if all(bool(tensor.all()) for tensor in weights.values() if tensor.dim() > 1):
        raise AurepError(f"search.options.pruned: {path} holds no zero weights; give a network that was pruned.")
    return weights
