"""Several widths in one prepared network: narrower networks that use the first channels of its tensors.

A `Narrow` is the network at one width multiplier w, the share of its channels. It computes with the first ceil(w C)
channels of every layer (see `aurep.surgery.channels`), as slices of the full network's own weights, masks and
coefficients, so that training either trains both; only its batch norms are its own, since statistics differ from width
to width. `Narrow.network` copies the slices into a network that stands alone: smaller for whoever runs it, with only
those ReLUs that lie in its channels.

Source: SENet++ in Kundu et al., "Learning to Linearize Deep Neural Networks for Secure and Efficient Private
Inference", ICLR 2023, after Horvath et al. (FjORD), NeurIPS 2021, and Yu et al. (slimmable networks), ICLR 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.modes import evaluating
from aurep.surgery.channels import Cut, plan_cuts, take
from aurep.surgery.sites import hybrid_sites

_CHILD = "narrower"  # of a prepared network: its narrow ones, so that their batch norms are saved and trained with it


class Narrow(nn.Module):
    """`full` at `width_multiplier`. Its parameters are its batch norms'; all else is `full`'s, at each call anew.

    Args:
        full: a prepared network, on the device of `example`.
        example: a batch of inputs.
        width_multiplier: share of the channels, in (0, 1).

    Raises:
        AurepError: channels of `full` cannot be dropped.
    """

    _network: fx.GraphModule

    def __init__(self, full: fx.GraphModule, example: Tensor, width_multiplier: float) -> None:
        super().__init__()
        self.width_multiplier = width_multiplier
        self.norms = nn.Module()
        with evaluating(full):
            cuts = plan_cuts(full, example, width_multiplier)
        network = copy.deepcopy(full)
        self._shared: list[tuple[str, nn.Module, str, Cut]] = []
        for path, cut in cuts.items():
            module, source = network.get_submodule(path), full.get_submodule(path)
            _shrink(module, cut)
            if cut.own:
                _put(self.norms, path, module)
            else:
                names = [name for name in cut.tensors if getattr(source, name) is not None]
                self._shared += [(f"{path}.{name}", source, name, cut) for name in names]
        # Not a child: its tensors but the batch norms' only mark the place of the full network's.
        self.__dict__["_network"] = network

    def train(self, mode: bool = True) -> Self:
        self._network.train(mode)  # which is no child
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes)."""
        if self._network.training != self.training:  # `evaluating` sets modes one by one
            self._network.train(self.training)
        for site, source in zip(self.sites, self._sources(), strict=True):
            site.blend = source.blend
        logits: Tensor = functional_call(self._network, self._slices(), (x,))
        return logits

    @property
    def sites(self) -> list[HybridActivation]:
        """To hook; their masks and coefficients hold while `forward` runs."""
        return hybrid_sites(self._network)

    def network(self) -> fx.GraphModule:
        """A network of its own, with copies of what it now computes with."""
        made: fx.GraphModule = copy.deepcopy(self._network)
        made.load_state_dict({**made.state_dict(), **self._slices()})
        return made.train(self.training)

    def _slices(self) -> dict[str, Tensor]:
        return {key: take(getattr(source, name), cut.tensors[name]) for key, source, name, cut in self._shared}

    def _sources(self) -> list[HybridActivation]:
        found = {source.site: source for _, source, _, _ in self._shared if isinstance(source, HybridActivation)}
        return [found[site.site] for site in self.sites]


def add_narrower(network: nn.Module, example: Tensor, width_multipliers: Sequence[float]) -> list[Narrow]:
    """Give a prepared `network` a `Narrow` for each of `width_multipliers` below 1, widest first, saved with it.

    Raises:
        AurepError: the network's channels cannot be dropped.
    """
    below = sorted((share for share in width_multipliers if share < 1), reverse=True)
    if not below:
        return []
    if not isinstance(network, fx.GraphModule):
        raise AurepError(
            "torch.fx cannot trace this network, so it has no narrower ones; leave search.width_multipliers at [1.0]."
        )
    made = [Narrow(network, example, share) for share in below]
    children = {str(narrow.width_multiplier).replace(".", "_"): narrow for narrow in made}
    network.add_module(_CHILD, nn.ModuleDict(children))
    return made


def narrower(network: nn.Module) -> list[Narrow]:
    """The narrow networks of `network`, widest first."""
    children = getattr(network, _CHILD, None)
    return [child for child in children.values() if isinstance(child, Narrow)] if children is not None else []


def narrowed(network: nn.Module, width_multiplier: float) -> nn.Module:
    """The network at one of its width multipliers, standing alone; at 1.0 `network` itself, without its narrow ones.

    Raises:
        AurepError: one that it does not have.
    """
    found = {narrow.width_multiplier: narrow for narrow in narrower(network)}
    if width_multiplier != 1 and width_multiplier not in found:
        known = ", ".join(f"{share:g}" for share in (1.0, *found))
        raise AurepError(f"width multiplier {width_multiplier:g} was not trained; the run has {known}.")
    if width_multiplier != 1:
        return found[width_multiplier].network()
    if found:
        delattr(network, _CHILD)
    return network


@torch.no_grad()
def _shrink(module: nn.Module, cut: Cut) -> None:
    for name, axes in cut.tensors.items():
        tensor = getattr(module, name)
        if tensor is not None:
            kept = take(tensor, axes).clone()
            setattr(module, name, nn.Parameter(kept, tensor.requires_grad) if name in module._parameters else kept)
    for name, value in cut.sizes.items():
        setattr(module, name, value)


def _put(tree: nn.Module, path: str, module: nn.Module) -> None:
    """`module` at `path` below `tree`, with empty modules on the way."""
    *parents, leaf = path.split(".")
    for parent in parents:
        if parent not in tree._modules:
            tree.add_module(parent, nn.Module())
        tree = tree.get_submodule(parent)
    tree.add_module(leaf, module)
