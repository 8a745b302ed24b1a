"""The hybrid activation: ReLU at kept elements, a polynomial of degree 0, 1 or 2 at the others.

For x of shape (N, C, ...), mask m of shape (C, ...) shared by the batch, coefficients c per channel or per element:

    y = m relu(x) + (1 - m) p(x),    p(x) = (c2 x + c1) x + c0        (Horner: x**2 alone overflows fp16)

computed by `aurep.kernels`; in torch operations in the equal form  y = max((a x + b) x + c, floor)  with (a, b, c,
floor) = (0, 1, 0, 0) at kept elements and (c2, c1, c0, -inf) at the others: three cheap passes, and a kept element
never sees its polynomial, so an all-kept site is bit-equal to ReLU. Backward saves x and the mask only. With
S_k = sum_n g x^k per element and g = dL/dy:

    dL/dx = g (2 a x + b), zero where a kept element is not positive
    dL/dc_k = sum over the replaced elements of S_k
    dL/dalpha = softplus(alpha) sum_n g (relu(x) - p(x)) = softplus(alpha) (sum_n g relu(x) - sum_k c_k S_k)

the last being the straight-through estimator of AutoReP (Peng et al., ICCV 2023) for the indicator parameters alpha.

Once `normalise` was called, what is trained are factors over normalised powers (see `aurep.powers`): in training mode
c is made of them and the batch's statistics, in eval mode it is `coefficients`, made of the running ones, which
`follow` keeps up to date.

While `blend` is set, alpha is a real factor instead and the mask plays no part (SNL, Cho et al., ICML 2022):

    y = alpha relu(x) + (1 - alpha) p(x),    with its true gradients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aurep.budget import ReluSite
from aurep.errors import AurepError
from aurep.kernels import Needs, Training, kernels_for, training_kernels_for
from aurep.kernels.eager import columns, widen
from aurep.polynomial import check_degree, dapa
from aurep.powers import fold, moving, power_statistics, unfold
from aurep.tails import excess_over


class HybridActivation(nn.Module):
    """One site. State: `mask` (bool, shape), `alpha` (fp32, shape), `coefficients` (fp32, ascending; none at degree 0).
    While it is normalised also `factors` (of the coefficients' shape) and running `statistics` (2 * degree, C).

    Args:
        shape: activation shape without the batch: (C, H, W), (F,), or any (C, ...).
        degree: 0 (identity), 1 or 2.
        site: name of the call it stands for.
        per_element: coefficients of shape (*shape, degree + 1) instead of (C, degree + 1).
        replaces: the kind of activation that it stands for.

    `blend` (a plain attribute, no state) is set by a search that fades elements out, and never outlives it; `limit`
    likewise by a penalty on tails.
    """

    mask: Tensor
    statistics: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        degree: int = 2,
        site: str = "relu",
        per_element: bool = False,
        replaces: str = "relu",
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.degree = check_degree(degree)
        self.site = site
        self.per_element = per_element
        self.replaces = replaces
        self.blend = False
        self.limit = 0.0
        self.register_buffer("mask", torch.ones(self.shape, dtype=torch.bool))
        self.alpha = nn.Parameter(torch.ones(self.shape))
        rows = self.shape if per_element else self.shape[:1]
        start = dapa(torch.zeros(rows), torch.ones(rows), degree) if degree else None
        self.coefficients = nn.Parameter(start) if start is not None else None
        self.factors: nn.Parameter | None = None
        self.register_buffer("statistics", None)
        self._seen: Tensor | None = None  # statistics of the last training batch, until `follow`
        self._excess: Tensor | None = None  # of its tails, until `take_excess`

    def forward(self, x: Tensor) -> Tensor:
        """x of shape (N, *shape) -> same shape and dtype. Changes no state, in train or eval."""
        if tuple(x.shape[1:]) != self.shape:
            raise AurepError(
                f"site {self.site} was prepared for inputs of shape {self.shape} but got {tuple(x.shape[1:])}; "
                "prepare the model with an example input of the size it is used with."
            )
        if torch.onnx.is_in_onnx_export():
            return self._symbolic(x)
        training = self.asked(x)
        if training is not None:
            y, excess, seen = TrainingFunction.apply(x, self.mask, self.alpha, self.trained, training)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            return self.note(y, excess, seen)
        coefficients = self.effective(x)
        if self.training and self.limit:
            self._excess = excess_over(x, self.statistics, self.limit)
        if self.blend:
            wide = widen(x)
            fallback = _polynomial(coefficients, wide)
            return (fallback + self.alpha * (wide.relu() - fallback)).to(x.dtype)
        return _hybrid(x, self.mask, self.alpha, coefficients)

    @property
    def trained(self) -> nn.Parameter | None:
        """What is trained of the polynomial: factors over normalised powers, else coefficients; None at degree 0."""
        return self.coefficients if self.factors is None else self.factors

    def asked(self, x: Tensor) -> Training | None:
        """What training asks besides the activation, where there are kernels for x that do it along; else None."""
        follows = self.factors is not None
        extra = self.training and not self.blend and (follows or self.limit > 0)
        if not extra or (follows and self.per_element) or training_kernels_for(x) is None:
            return None
        return Training(self.statistics if follows else None, self.limit)

    def note(self, y: Tensor, excess: Tensor | None, seen: Tensor | None) -> Tensor:
        """Keep what such kernels found; returns y."""
        self._excess, self._seen = excess, seen
        return y

    def take_seen(self) -> Tensor:
        """Statistics of the last training batch, once."""
        assert self._seen is not None
        seen, self._seen = self._seen, None
        return seen

    def take_excess(self) -> Tensor:
        """Of the last training batch over `limit`, once."""
        assert self._excess is not None
        excess, self._excess = self._excess, None
        return excess

    def effective(self, x: Tensor) -> Tensor | None:
        """The coefficients that x (N, *shape) is to be computed with."""
        if not self.training or self.factors is None or self.statistics is None:
            return self.coefficients
        statistics = power_statistics(x, self.degree)
        self._seen = statistics.detach()
        return fold(self.factors, statistics)

    def polynomial(self, x: Tensor) -> Tensor:
        """p(x) at all elements, for x of shape (N, *shape); x itself at degree 0.

        Between a forward in training mode and `follow` it is the polynomial of that forward, by its batch's statistics.
        """
        if self.factors is not None and self._seen is not None:
            return _polynomial(fold(self.factors, self._seen), x)
        return _polynomial(self.coefficients, x)

    def _symbolic(self, x: Tensor) -> Tensor:
        """One node `ai.aurep::HybridActivation` per site, which the exporter expands into the target's form."""
        inputs = (x, self.mask) if self.coefficients is None else (x, self.mask, self.coefficients)
        attributes: dict[str, Any] = {"site": self.site, "degree": self.degree}
        return torch.onnx.ops.symbolic(
            "ai.aurep::HybridActivation", inputs, attributes, dtype=x.dtype, shape=x.shape, version=1
        )

    def relu_site(self) -> ReluSite:
        return ReluSite(self.site, self.shape, int(self.mask.sum()), self.degree)

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Set which elements stay ReLU: `mask` of shape `shape`, true (or 1) where kept."""
        values = torch.as_tensor(mask, device=self.mask.device)
        if tuple(values.shape) != self.shape:
            raise AurepError(f"site {self.site} needs a mask of shape {self.shape}, got {tuple(values.shape)}.")
        kept = values.bool()
        if not torch.equal(kept.to(values.dtype), values):
            raise AurepError(f"site {self.site}: a mask holds only 0 and 1 (or False and True).")
        self.mask.copy_(kept)

    @torch.no_grad()
    def set_coefficients(self, coefficients: Tensor) -> None:
        """Set the polynomial: ascending coefficients of shape (C, degree + 1) or (*shape, degree + 1)."""
        if self.coefficients is None:
            raise AurepError(f"site {self.site} is of degree 0, the identity: it has no coefficients to set.")
        if coefficients.shape != self.coefficients.shape:
            expected, found = tuple(self.coefficients.shape), tuple(coefficients.shape)
            raise AurepError(f"site {self.site} needs coefficients of shape {expected}, got {found}.")
        self.coefficients.copy_(coefficients)
        if self.factors is not None and self.statistics is not None:
            self.factors.copy_(unfold(self.coefficients, self.statistics))

    @torch.no_grad()
    def normalise(self, statistics: Tensor) -> None:
        """Train factors over normalised powers from now on, from the present polynomial on; nothing at degree 0.

        Args:
            statistics: (2 * degree, C), of inputs such as the site will see (see `aurep.powers`).
        """
        if self.coefficients is None:
            return
        self.statistics = statistics.to(self.coefficients)
        self.factors = nn.Parameter(unfold(self.coefficients, self.statistics))
        self.coefficients.requires_grad_(False)

    def follow(self) -> None:
        """Called after every optimiser step: statistics take in the last batch's, coefficients follow the factors."""
        follow([self])

    def settle(self) -> None:
        """Back to plain coefficients, such as evaluation has used all along."""
        if self.coefficients is not None and self.factors is not None:
            self.factors = self.statistics = self._seen = None
            self.coefficients.requires_grad_(True)

    def extra_repr(self) -> str:
        return f"site={self.site!r}, shape={self.shape}, degree={self.degree}, kept={int(self.mask.sum())}"


@torch.no_grad()
def follow(sites: Iterable[HybridActivation]) -> None:
    """`HybridActivation.follow` of all `sites`, of which there may be dozens, each with some twenty tiny operations:
    done in one go for those alike."""
    alike: dict[torch.Size, list[HybridActivation]] = defaultdict(list)
    moved: dict[int, list[HybridActivation]] = defaultdict(list)
    for site in sites:
        if site.factors is not None and site.statistics is not None:
            alike[site.factors.shape[1:]].append(site)
            if site._seen is not None:
                moved[site.degree].append(site)
    for group in moved.values():
        statistics = [site.statistics for site in group if site.statistics is not None]
        seen = [site.take_seen() for site in group]
        now = moving(torch.cat(statistics, 1), torch.cat(seen, 1)).split([rows.shape[1] for rows in statistics], 1)
        for mine, then in zip(statistics, now, strict=True):
            mine.copy_(then)
    for group in alike.values():
        factors: list[Tensor] = [site.factors for site in group if site.factors is not None]
        statistics = [site.statistics for site in group if site.statistics is not None]
        folded = fold(torch.cat(factors), torch.cat(statistics, 1)).split([len(rows) for rows in factors])
        for site, coefficients in zip(group, folded, strict=True):
            assert site.coefficients is not None
            site.coefficients.copy_(coefficients)


def _polynomial(coefficients: Tensor | None, x: Tensor) -> Tensor:
    if coefficients is None:
        return x
    *lower, y = columns(coefficients, x.dtype, x.dim() - 1)
    for constant in reversed(lower):
        y = torch.addcmul(constant, y, x)
    return y


def _hybrid(x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None) -> Tensor:
    result: Tensor = HybridFunction.apply(x, mask, alpha, coefficients)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


class HybridFunction(torch.autograd.Function):
    """The maths of the module docstring. Half-precision inputs are computed in fp32 and returned in their dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, mask, alpha, coefficients)
        return kernels_for(x).forward(x, mask, coefficients)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None]:
        x, mask, alpha, coefficients = ctx.saved_tensors
        of_x, _, of_alpha, of_coefficients = ctx.needs_input_grad
        needs = Needs(of_x, of_alpha, of_coefficients)
        grad_x, grad_alpha, grad_coefficients = kernels_for(x).backward(grads[0], x, mask, alpha, coefficients, needs)
        return grad_x, None, grad_alpha, grad_coefficients


class TrainingFunction(torch.autograd.Function):
    """The same with all that `Training` asks: y, the excess of tails, the statistics of the batch's powers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, alpha: Tensor, polynomial: Tensor | None, training: Training
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        kernels = training_kernels_for(x)
        assert kernels is not None
        y, seen, excess = kernels.training_forward(x, None, (), mask, polynomial, training)
        ctx.save_for_backward(x, mask, alpha, *seen)
        ctx.limit = training.limit
        ctx.set_materialize_grads(False)
        if seen[1] is not None:
            ctx.mark_non_differentiable(seen[1])
        return y, excess, seen[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, mask, alpha, *seen = ctx.saved_tensors
        kernels = training_kernels_for(x)
        assert kernels is not None
        needs = Needs(True, ctx.needs_input_grad[2], ctx.needs_input_grad[3])
        du, of_alpha, of_polynomial, _ = kernels.training_backward(
            grads[0], grads[1], x, None, (), mask, alpha, tuple(seen), ctx.limit, needs
        )
        return du, None, of_alpha, of_polynomial, None
