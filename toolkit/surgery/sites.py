"""The sites of a prepared network: which they are, their masks, and the fit of their polynomials."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn

from aurep.activation import HybridActivation
from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.modes import evaluating
from aurep.polynomial import Fit, Moments
from aurep.powers import power_statistics


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

    Sites with replaced elements are fitted in the order of the forward, each before the next one sees its outputs:
    fitted side by side, on what ReLUs let through, a deep network of polynomials leaves the ranges they were fitted on.

    Args:
        model: a prepared model; it runs in eval mode with its present masks, and its mode is restored.
        batches: inputs (N, C, H, W), or tuples whose first item they are.
        max_batches: stop after so many.
        method: how, as in `aurep.polynomial.Moments.fit`: "moments", the best for the inputs seen; "damped", to train
            a network of many polynomials from; "bounded", for a deep one that is used before any training, which
            plain fits leave infinite; "normal" or "autorep".

    Raises:
        AurepError: no batch, or a batch that makes an activation infinite or NaN.
    """
    moments = {site: Moments(site.shape, site.per_element) for site in hybrid_sites(model) if site.degree}

    def look(site: HybridActivation, x: Tensor) -> None:
        moments[site].add(x)
        if not bool(site.mask.all()):
            site.set_coefficients(moments[site].fit(site.degree, method))

    _show(model, islice(batches, max_batches), moments, look)
    for site, seen in moments.items():
        fitted = seen.fit(site.degree, method)
        if not bool(torch.isfinite(fitted).all()):
            raise AurepError(f"site {site.site} sees infinite or NaN inputs; check the weights and the data's scale.")
        site.set_coefficients(fitted)


@torch.no_grad()
def normalise_polynomials(model: nn.Module, batches: Iterable[Any], max_batches: int | None = None) -> None:
    """Train the polynomials of `model` over normalised powers from now on, by the statistics of `batches`.

    Arguments as of `fit_polynomials`; the network computes what it did before (see `aurep.powers`).
    """
    seen: dict[HybridActivation, list[Tensor]] = {site: [] for site in hybrid_sites(model) if site.degree}
    _show(model, islice(batches, max_batches), seen, lambda m, x: seen[m].append(power_statistics(x, m.degree)))
    for site, statistics in seen.items():
        site.normalise(torch.stack(statistics).mean(0))


def normalise_like(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Make room in `model` for the factors that `weights`, a state of the same network, has."""
    for path, site in model.named_modules():
        if isinstance(site, HybridActivation) and f"{path}.factors" in weights:
            site.normalise(weights[f"{path}.statistics"])


def _show(
    model: nn.Module,
    batches: Iterable[Any],
    sites: Iterable[HybridActivation],
    look: Callable[[HybridActivation, Tensor], None],
) -> None:
    """Run `model` in eval mode on `batches`; `look` sees each of the sites' inputs."""
    hooks = [site.register_forward_pre_hook(lambda m, args: look(m, args[0])) for site in sites]
    try:
        with evaluating(model):
            for x in inputs(model, batches):
                model(x)
    finally:
        for hook in hooks:
            hook.remove()


def inputs(model: nn.Module, batches: Iterable[Any]) -> Iterator[Tensor]:
    """Those of `batches`, inputs or tuples whose first item they are, on the device of `model`."""
    device = next(model.parameters()).device
    for batch in batches:
        yield (batch[0] if isinstance(batch, list | tuple) else batch).to(device)
