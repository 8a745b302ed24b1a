"""Implementations of the hybrid activation's arithmetic, of one interface, chosen by device.

    eager     a handful of cheap torch operations; anywhere, any dtype. The default on a CPU, and what torch.compile
              sees: a compiler makes its own kernels out of them.
    cpu       C++, built on first use where a compiler is found; chosen with `using("compiled")`, as runs in bf16 do.
              One pass over memory in each direction, and one for each set of statistics; float32 and bfloat16.
    cuda      Triton's, where that package is installed; the default there. One pass in each direction; float32,
              bfloat16 and float16.

Each is a module with the functions of `Kernels`. What one cannot do (a dtype, a missing compiler) eager does. All add
up in a fixed order, so a step repeated on the same device gives the same bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from aurep.distributed import rank_count
from aurep.errors import AurepError
from aurep.kernels import eager

Choice = Literal["auto", "eager", "compiled"]
CHOICES: tuple[Choice, ...] = ("auto", "eager", "compiled")


class Norm(NamedTuple):
    """A batch norm as a map per channel, scale (z - mean) + shift; each of shape (C,), fp32."""

    mean: Tensor
    scale: Tensor
    shift: Tensor


class Needs(NamedTuple):
    """Which gradients a backward pass must give."""

    x: bool
    alpha: bool
    coefficients: bool


class Training(NamedTuple):
    """What a training step asks of a site besides its activation (see `aurep.powers`, `aurep.tails`).

    Args:
        statistics: running ones (2 * degree, C), by which tails are told; the polynomial is factors (C, degree + 1),
            folded with the batch's. None: it is coefficients, and tails are told by the images looked at.
        limit: of tails, in deviations; 0: nobody asks.
    """

    statistics: Tensor | None
    limit: float


Seen = tuple[Tensor | None, Tensor | None, Tensor | None]  # coefficients, the batch's statistics, those of tails


class Kernels(Protocol):
    """x is (N, C, ...), contiguous or channels_last; mask and alpha are (C, ...), coefficients as in the module."""

    def forward(self, x: Tensor, mask: Tensor, coefficients: Tensor | None) -> Tensor:
        """y of x's dtype and memory format."""

    def backward(
        self, g: Tensor, x: Tensor, mask: Tensor, alpha: Tensor, coefficients: Tensor | None, needs: Needs
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """dL/dx, dL/dalpha, dL/dcoefficients, those that are needed."""

    def statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of z per channel, fp32 (C,)."""

    def normed_forward(
        self, z: Tensor, residual: Tensor | None, norms: Sequence[Norm], mask: Tensor, coefficients: Tensor | None
    ) -> Tensor:
        """The activation of  u = norm(z) [+ residual | + norm'(residual)];  `norms` holds one or both."""

    def normed_backward(
        self,
        g: Tensor,
        z: Tensor,
        residual: Tensor | None,
        norms: Sequence[Norm],
        mask: Tensor,
        alpha: Tensor,
        coefficients: Tensor | None,
        needs: Needs,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """dL/du; dL/dalpha; dL/dcoefficients; and, (1 + norms, C),  sum du  and  sum du (z - mean)  of each norm."""

    def norm_input(
        self, du: Tensor, z: Tensor, mean: Tensor, a: Tensor, b: Tensor, c: Tensor, *, spent: bool = False
    ) -> Tensor:
        """a du + b (z - mean) + c  per channel: what a batch norm's input gradient comes to. A `spent` du is not needed
        any more, and may be overwritten."""


class TrainingKernels(Kernels, Protocol):
    """All of a site's training step at once, on one rank: nothing is made of u, which is as large as x."""

    def training_forward(
        self,
        z: Tensor,
        residual: Tensor | None,
        norms: Sequence[Norm],
        mask: Tensor,
        polynomial: Tensor | None,
        training: Training,
    ) -> tuple[Tensor, Seen, Tensor | None]:
        """The activation of u; what backward wants to see again; the excess of tails where there is a limit."""

    def training_backward(
        self,
        g: Tensor,
        of_excess: Tensor | None,
        z: Tensor,
        residual: Tensor | None,
        norms: Sequence[Norm],
        mask: Tensor,
        alpha: Tensor,
        seen: Seen,
        limit: float,
        needs: Needs,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """As `normed_backward`, with dL/dpolynomial for dL/dcoefficients."""


_chosen: Choice = "auto"


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """Inside the block CPUs use `choice` ("auto": eager). GPUs use Triton unless it is "eager".

    Raises:
        AurepError: not one of CHOICES.
    """
    global _chosen
    if choice not in CHOICES:
        raise AurepError(f"kernels={choice!r} is not known; choose one of {', '.join(CHOICES)}.")
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


def kernels_for(x: Tensor) -> Kernels:
    """The implementation for tensors like x."""
    if torch.compiler.is_compiling() or _chosen == "eager":
        return cast(Kernels, eager)
    if x.device.type == "cuda" and triton_found():
        from aurep.kernels import cuda

        return cast(Kernels, cuda if x.dtype in cuda.DTYPES else eager)
    if x.device.type == "cpu" and _chosen == "compiled":
        from aurep.kernels import cpu, cpu_build

        return cast(Kernels, cpu if x.dtype in cpu.DTYPES and cpu_build.available() else eager)
    return cast(Kernels, eager)


def training_kernels_for(x: Tensor) -> TrainingKernels | None:
    """The implementation for tensors like x where it does all of a training step, else None."""
    kernels = kernels_for(x)
    able = hasattr(kernels, "training_forward") and rank_count() == 1
    return cast(TrainingKernels, kernels) if able else None


def triton_found() -> bool:
    return importlib.util.find_spec("triton") is not None


def describe() -> dict[str, str]:
    """Device -> what runs there, in words, for `aurep doctor`. Builds the compiled path if it can."""
    from aurep.kernels import cpu_build

    found = {"CPU kernels": f"eager in fp32; in bf16, or with kernels = 'compiled': {cpu_build.describe()}"}
    if torch.cuda.is_available():
        found["CUDA kernels"] = "Triton" if triton_found() else "eager, since the triton package is not installed"
    return found
