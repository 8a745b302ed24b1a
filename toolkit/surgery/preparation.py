"""Put one `HybridActivation` at every activation call of a network.

`prepare` traces the network with torch.fx, so that shared modules, functional calls, methods and in-place variants each
get a site of their own (see `aurep.surgery.tracing`). A network that torch.fx cannot trace gets its activation modules
replaced in place, provided that each is called exactly once and none is called as a function.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.modes import evaluating
from aurep.polynomial import check_degree
from aurep.surgery.kinds import chosen_kinds, nothing_to_replace
from aurep.surgery.pooling import average_pools
from aurep.surgery.sites import hybrid_sites
from aurep.surgery.tracing import Untraceable, replace_modules, replace_nodes, tap_nodes, trace


def prepare(
    model: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    *,
    degree: int = 2,
    replace: str | Sequence[str] = ("relu",),
    maxpool: str = "max",
    coefficients: str = "channel",
) -> nn.Module:
    """A copy of `model` with a hybrid activation at every call of the activations in `replace`, all elements kept.

    Args:
        model: any network; it is not changed.
        example_input: a batch of the shape that the network will be used with, (N, C, H, W), or a tuple of inputs.
        degree: degree of the polynomials, 0 (identity), 1 or 2.
        replace: activations to take over, of "relu", "relu6", "silu", "hardswish", "gelu", or "auto", all of them that
            the network calls. A kept element of any is a ReLU from then on, so a network of SiLUs needs retraining
            even with all elements kept; each site's `replaces` says which it was.
        maxpool: "avg" swaps max-pooling, which compares as well, for average-pooling of the same window.
        coefficients: "channel" (C, degree + 1) or "element" (C, H, W, degree + 1).

    Returns:
        The prepared network. Where only ReLUs were replaced, its outputs in eval mode are bit-equal to the model's.

    Raises:
        AurepError: nothing to replace (names the activations there are), an unknown option, or a network that cannot be
            taken apart safely.
    """
    _check_options(model, maxpool, coefficients)
    kinds = chosen_kinds(replace)
    check_degree(degree)
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    per_element = coefficients == "element"

    def make(shape: tuple[int, ...], site: str, kind: str) -> HybridActivation:
        return HybridActivation(shape, degree, site, per_element, kind).to(inputs[0].device)

    work = copy.deepcopy(model)
    if maxpool == "avg":
        average_pools(work)
    with evaluating(work):
        reference = _run(work, inputs)
    try:
        graph = trace(work)
    except Untraceable as reason:
        prepared = replace_modules(work, inputs, kinds, make, reason)
    else:
        prepared = replace_nodes(work, graph, inputs, kinds, make, maxpool == "avg")
    prepared.train(model.training)
    found = {site.replaces for site in hybrid_sites(prepared)}
    if not found:
        raise nothing_to_replace(prepared, kinds)
    if found == {"relu"} and maxpool == "max":
        _check_unchanged(prepared, inputs, reference)
    return prepared


def tap_activations(
    model: nn.Module, replace: str | Sequence[str], names: Sequence[str]
) -> tuple[nn.Module, list[nn.Module]]:
    """Modules to hook for the outputs of the activation calls that `prepare` would take over, in its sites' order.

    Args:
        model: an unprepared network; it is not changed.
        replace: as given to `prepare`.
        names: the sites' names.

    Returns:
        The network to run, which shares the model's weights and computes the same, and one module per site.
    """
    try:
        graph = trace(model)
    except Untraceable:  # then `prepare` took the activation modules over by name, each called once
        return model, [model.get_submodule(name) for name in names]
    tapped, taps = tap_nodes(model, graph, chosen_kinds(replace))
    return tapped.train(model.training), taps


def _check_options(model: nn.Module, maxpool: str, coefficients: str) -> None:
    if hybrid_sites(model):
        raise AurepError("the model is already prepared; pass the original network.")
    if maxpool not in ("max", "avg"):
        raise AurepError(f'maxpool={maxpool!r} is not known; choose "max" or "avg".')
    if coefficients not in ("channel", "element"):
        raise AurepError(f'coefficients={coefficients!r} is not known; choose "channel" or "element".')


@torch.no_grad()
def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    found = torch.utils._pytree.tree_leaves(model(*inputs))
    return [leaf.clone() for leaf in found if isinstance(leaf, Tensor)]


def _check_unchanged(prepared: nn.Module, inputs: tuple[Tensor, ...], reference: list[Tensor]) -> None:
    with evaluating(prepared):
        outputs = _run(prepared, inputs)
    if not all(torch.equal(a, b) for a, b in zip(outputs, reference, strict=True)):
        raise AurepError(
            "the prepared network computes something else than the original, so its forward has an effect that a "
            "trace does not show (an in-place operation on a view, or a random draw); write that step without it."
        )
