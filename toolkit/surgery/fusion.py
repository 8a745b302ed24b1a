"""Batch norm, residual sum and hybrid activation as one operation in training: none saves what another can recompute.

A plain network saves a convolution's output z (for its batch norm) and the activation's output y (for the next
convolution); its ReLU needs no more than y. A hybrid activation needs its input u besides, half as much again. But

    u = gamma (z - mean) / sigma + beta  [+ r  |  + the same of r, where the shortcut ends in a batch norm of its own]

is cheap, so that backward computes u anew from z (and r, which a neighbour has saved anyway), as In-Place ABN does
(Rota Bulò et al., CVPR 2018). With M = N H W elements per channel, zhat = (z - mean) / sigma, and du = dL/du from
`aurep.kernels`:

    dL/dgamma = sum du zhat,   dL/dbeta = sum du,   dL/dz = gamma / sigma (du - dL/dbeta / M - zhat dL/dgamma / M)

(Ioffe and Szegedy, ICML 2015). In a distributed run statistics and sums are those of all ranks
(`aurep.surgery.norms`). `fuse` returns another graph over the very same modules: it is trained in place of the
prepared network, whose state, names, hooks, evaluation and export know nothing of it.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from aurep.activation import HybridActivation
from aurep.distributed import sum_over_ranks
from aurep.kernels import Needs, Norm, Seen, Training, kernels_for, training_kernels_for
from aurep.surgery.norms import Batch, copied, is_batch_norm, norm_input_gradient, normalise, regraphed

_SUMS = (operator.add, operator.iadd, torch.add)
_SUM_METHODS = ("add", "add_")


class NormedActivation(nn.Module):
    """site(norm(z)), site(norm(z) + residual) or site(norm(z) + residual_norm(residual)), of modules owned by others.

    In eval mode, under torch.compile (which finds its own fusions) and where somebody hooks one of the modules, it
    calls them one after the other.
    """

    def __init__(self, site: HybridActivation, norm: nn.Module, residual_norm: nn.Module | None = None) -> None:
        super().__init__()
        self.site, self.norm, self.residual_norm = site, norm, residual_norm

    def forward(self, z: Tensor, residual: Tensor | None = None) -> Tensor:
        """z, and residual if given, of shape (N, C, ...) -> the same shape."""
        if not self._fusible(z, residual):
            u = normalise(self.norm, z)
            if residual is not None:
                u = u + (residual if self.residual_norm is None else normalise(self.residual_norm, residual))
            y: Tensor = self.site(u)
            return y
        first = Batch(self.norm, z)
        second = (
            Batch(self.residual_norm, residual) if self.residual_norm is not None and residual is not None else None
        )
        own = (first.weight, first.bias, first.mean, first.inverse)
        other = (second.weight, second.bias, second.mean, second.inverse) if second else (None, None, None, None)
        site, training = self.site, self.site.asked(z)
        polynomial = site.effective(z) if training is None else site.trained
        inputs = (z, residual, *own, *other, site.mask, site.alpha, polynomial, training)
        y, excess, seen = NormedFunction.apply(*inputs)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return site.note(y, excess, seen)

    def _fusible(self, z: Tensor, residual: Tensor | None) -> bool:
        modules = [self.site, self.norm, *([] if self.residual_norm is None else [self.residual_norm])]
        hooked = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)
        alike = residual is None or (residual.dtype == z.dtype and residual.shape == z.shape)
        several = z.numel() > z.shape[1]  # of a single value per channel there is no variance: the norm says so
        inside = all(m.training for m in modules) and tuple(z.shape[1:]) == self.site.shape
        # What a training step asks for besides needs u, but with kernels that do it along.
        alone = not self.site.limit and self.site.factors is None
        plain = not self.site.blend and (alone or self.site.asked(z) is not None)
        return inside and alike and several and plain and not (hooked or torch.compiler.is_compiling())


class NormedFunction(torch.autograd.Function):
    """The maths of the module docstring; and the excess of tails and the statistics of the batch's powers, where
    `training` asks for them (see `aurep.activation.TrainingFunction`)."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight_r: Tensor | None,
        bias_r: Tensor | None,
        mean_r: Tensor | None,
        inverse_r: Tensor | None,
        mask: Tensor,
        alpha: Tensor,
        polynomial: Tensor | None,
        training: Training | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        norms, excess = [Norm(mean, weight * inverse, bias)], None
        if weight_r is not None and bias_r is not None and mean_r is not None and inverse_r is not None:
            norms.append(Norm(mean_r, weight_r * inverse_r, bias_r))
        if training is None:
            y = kernels_for(z).normed_forward(z, residual, norms, mask, polynomial)
            seen: Seen = (polynomial, None, None)
        else:
            kernels = training_kernels_for(z)
            assert kernels is not None
            y, seen, excess = kernels.training_forward(z, residual, norms, mask, polynomial, training)
        parts = [part for norm in norms for part in norm]
        ctx.save_for_backward(z, residual, inverse, inverse_r, mask, alpha, *seen, *parts)
        ctx.limit = None if training is None else training.limit
        ctx.set_materialize_grads(False)
        if seen[1] is not None:
            ctx.mark_non_differentiable(seen[1])
        return y, excess, seen[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        z, residual, inverse, inverse_r, mask, alpha, coefficients, batch, over, *parts = ctx.saved_tensors
        norms = [Norm(*parts[k : k + 3]) for k in range(0, len(parts), 3)]
        needs = Needs(True, ctx.needs_input_grad[11], ctx.needs_input_grad[12])
        inputs = (z, residual, norms, mask, alpha)
        if ctx.limit is None:
            found = kernels_for(z).normed_backward(grads[0], *inputs, coefficients, needs)
        else:
            seen = coefficients, batch, over
            kernels = training_kernels_for(z)
            assert kernels is not None
            found = kernels.training_backward(grads[0], grads[1], *inputs, seen, ctx.limit, needs)
        du, grad_alpha, grad_polynomial, sums = found
        total, centred, *centred_r = sum_over_ranks(sums)
        grad_z = norm_input_gradient(du, z, norms[0], inverse, total, centred, spent=residual is None)
        of_norm = _norm_gradients(norms[0], inverse, sums[0], sums[1])
        grad_residual: Tensor | None = du if residual is not None else None
        of_other: list[Tensor | None] = [None, None]
        if centred_r:
            assert residual is not None
            grad_residual = norm_input_gradient(du, residual, norms[1], inverse_r, total, *centred_r, spent=True)
            of_other = _norm_gradients(norms[1], inverse_r, sums[0], sums[2])
        rest = (None, grad_alpha, grad_polynomial, None)
        return grad_z, grad_residual, *of_norm, None, None, *of_other, None, None, *rest


def _norm_gradients(norm: Norm, inverse: Tensor, total: Tensor, centred: Tensor) -> list[Tensor | None]:
    """dL/dgamma and dL/dbeta, of this rank's images alone: gradients of parameters are averaged over ranks later."""
    return [(centred * inverse).to(norm.shift.dtype), total.to(norm.shift.dtype)]


def fuse(model: nn.Module) -> nn.Module:
    """The network to train in place of `model`, a prepared one: same modules, parameters and results, less memory.

    A network that torch.fx could not trace is returned as it is.
    """
    if not isinstance(model, fx.GraphModule):
        return model
    fused = regraphed(model, copied(model.graph))
    for node in list(fused.graph.nodes):
        if node.op == "call_module" and isinstance(fused.get_submodule(str(node.target)), HybridActivation):
            _fuse_site(fused, node)
    fused.graph.eliminate_dead_code()
    fused.graph.lint()
    fused.recompile()
    return fused.train(model.training)


def _fuse_site(module: fx.GraphModule, node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    terms = _terms(source) if len(source.users) == 1 else None
    first, *others = sorted(terms or [source], key=lambda term: not _is_norm(module, term))
    if not _is_norm(module, first):
        return
    modules = [module.get_submodule(str(node.target)), module.get_submodule(str(first.target))]
    arguments = [first.args[0]]
    for other in others:
        normed = _is_norm(module, other)
        modules += [module.get_submodule(str(other.target))] if normed else []
        arguments.append(other.args[0] if normed else other)
    name = f"normed_{node.name}"
    module.add_submodule(name, NormedActivation(*modules))  # type: ignore[arg-type]  # the first is a site
    # A dead norm would still be run: its running statistics look like an effect.
    spent = [source] if terms is None else [source, *(term for term in [first, *others] if _is_norm(module, term))]
    node.target, node.args, node.kwargs = name, tuple(arguments), {}
    for old in spent:
        module.graph.erase_node(old)


def _terms(node: fx.Node) -> list[fx.Node] | None:
    """The two terms that `node` adds, or None."""
    adds = (node.op == "call_function" and node.target in _SUMS) or (
        node.op == "call_method" and node.target in _SUM_METHODS
    )
    terms = [term for term in node.args if isinstance(term, fx.Node)]
    return terms if adds and len(terms) == len(node.args) == 2 and not node.kwargs else None


def _is_norm(module: fx.GraphModule, node: fx.Node) -> bool:
    """A batch norm of this very kind, whose output nobody else reads."""
    if node.op != "call_module" or len(node.users) != 1 or len(node.args) != 1 or node.kwargs:
        return False
    return is_batch_norm(module.get_submodule(str(node.target)))
