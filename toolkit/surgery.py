"""Put one `HybridActivation` at every activation call of a network, and work with those sites.

`prepare` traces the network with torch.fx, so that shared modules, functional calls, methods and in-place variants each
get a site of their own (see `aurep.tracing`). A network that torch.fx cannot trace gets its activation modules replaced
in place, provided that each is called exactly once and none is called as a function.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from aurep.activation import HybridActivation
from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.polynomial import Fit, Moments, check_degree
from aurep.pooling import average_pools
from aurep.tracing import KINDS, Untraceable, replace_modules, replace_nodes, tap_nodes, trace


def prepare(
    model: nn.Module,
    example_input: Tensor | tuple[Tensor, ...],
    *,
    degree: int = 2,
    replace: Sequence[str] = ("relu",),
    maxpool: str = "max",
    coefficients: str = "channel",
) -> nn.Module:
    """A copy of `model` with a hybrid activation at every call of the activations in `replace`, all elements kept.

    Args:
        model: any network; it is not changed.
        example_input: a batch of the shape that the network will be used with, (N, C, H, W), or a tuple of inputs.
        degree: degree of the polynomials, 0 (identity), 1 or 2.
        replace: activations to take over, of "relu", "relu6", "silu", "hardswish", "gelu". A kept element of any
            of them is a ReLU from then on, so a network of SiLUs needs retraining even with all elements kept.
        maxpool: "avg" swaps max-pooling, which compares as well, for average-pooling of the same window.
        coefficients: "channel" (C, degree + 1) or "element" (C, H, W, degree + 1).

    Returns:
        The prepared network. Where only ReLUs were replaced, its outputs in eval mode are bit-equal to the model's.

    Raises:
        AurepError: nothing to replace, an unknown option, or a network that cannot be taken apart safely.
    """
    _check_options(model, replace, maxpool, coefficients)
    check_degree(degree)
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    per_element = coefficients == "element"

    def make(shape: tuple[int, ...], site: str) -> HybridActivation:
        return HybridActivation(shape, degree, site, per_element).to(inputs[0].device)

    work = copy.deepcopy(model)
    if maxpool == "avg":
        average_pools(work)
    with evaluating(work):
        reference = _run(work, inputs)
    try:
        graph = trace(work)
    except Untraceable as reason:
        prepared = replace_modules(work, inputs, tuple(replace), make, reason)
    else:
        prepared = replace_nodes(work, graph, inputs, tuple(replace), make, maxpool == "avg")
    prepared.train(model.training)
    if not hybrid_sites(prepared):
        raise AurepError(f"the model calls none of {', '.join(replace)}; name its activations with replace=(...).")
    if tuple(replace) == ("relu",) and maxpool == "max":
        _check_unchanged(prepared, inputs, reference)
    return prepared


def tap_activations(
    model: nn.Module, replace: Sequence[str], names: Sequence[str]
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
    tapped, taps = tap_nodes(model, graph, tuple(replace))
    return tapped.train(model.training), taps


def hybrid_sites(model: nn.Module) -> list[HybridActivation]:
    """The hybrid activations of a prepared model, in the order of its forward (of its modules, if it is untraced)."""
    modules: Iterable[nn.Module] = model.modules()
    if isinstance(model, fx.GraphModule):
        modules = (model.get_submodule(str(node.target)) for node in model.graph.nodes if node.op == "call_module")
    return [module for module in modules if isinstance(module, HybridActivation)]


def relu_sites(model: nn.Module) -> list[ReluSite]:
    """Name, shape, elements, kept and degree of every site of a prepared model."""
    return [module.relu_site() for module in hybrid_sites(model)]


def set_mask(model: nn.Module, name: str, mask: Tensor) -> None:
    """Set which elements of site `name` stay ReLU: `mask` of the site's shape, true (or 1) where kept."""
    sites = {module.site: module for module in hybrid_sites(model)}
    if name not in sites:
        raise AurepError(
            f"the model has no site {name!r}; its sites are {', '.join(sites) or 'none: prepare it first'}."
        )
    sites[name].set_mask(mask)


@torch.no_grad()
def fit_polynomials(
    model: nn.Module, batches: Iterable[Any], max_batches: int | None = None, method: Fit = "moments"
) -> None:
    """Fit every site's coefficients to its input distribution on `batches` (DaPa).

    Args:
        model: a prepared model; it runs in eval mode with its present masks, and its mode is restored.
        batches: inputs (N, C, H, W), or tuples whose first item they are.
        max_batches: stop after so many.
        method: how, as in `aurep.polynomial.Moments.fit`: "moments", "normal" or "autorep".

    Raises:
        AurepError: no batch, or a batch that makes an activation infinite or NaN.
    """
    moments = {site: Moments(site.shape, site.per_element) for site in hybrid_sites(model) if site.degree}
    hooks = [site.register_forward_pre_hook(lambda m, args: moments[m].add(args[0])) for site in moments]
    device = next(model.parameters()).device
    try:
        with evaluating(model):
            for batch in islice(batches, max_batches):
                model((batch[0] if isinstance(batch, list | tuple) else batch).to(device))
    finally:
        for hook in hooks:
            hook.remove()
    for site, seen in moments.items():
        fitted = seen.fit(site.degree, method)
        if not bool(torch.isfinite(fitted).all()):
            raise AurepError(f"site {site.site} sees infinite or NaN inputs; check the weights and the data's scale.")
        site.set_coefficients(fitted)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; every module's own mode is restored after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_options(model: nn.Module, replace: Sequence[str], maxpool: str, coefficients: str) -> None:
    if hybrid_sites(model):
        raise AurepError("the model is already prepared; pass the original network.")
    unknown = [kind for kind in replace if kind not in KINDS]
    if unknown or isinstance(replace, str):
        raise AurepError(f"replace={replace!r} is not known; give a tuple of {', '.join(KINDS)}.")
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
