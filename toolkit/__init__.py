"""aurep: CNNs that are cheap under private inference.

Search which activation elements stay ReLU within a budget, replace the others by fitted polynomials, retrain against
a teacher, export ONNX, validate. Names are imported on first use, so `import aurep` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurep.activation import HybridActivation
    from aurep.budget import ReluBudget, ReluSite
    from aurep.errors import AurepError
    from aurep.exporters import export
    from aurep.polynomial import dapa
    from aurep.results import RunResult
    from aurep.surgery import fit_polynomials, prepare, relu_sites, set_mask
    from aurep.training import train

__all__ = [
    "AurepError",
    "HybridActivation",
    "ReluBudget",
    "ReluSite",
    "RunResult",
    "__version__",
    "dapa",
    "export",
    "fit_polynomials",
    "prepare",
    "relu_sites",
    "set_mask",
    "train",
]

_HOMES = {
    "AurepError": "errors",
    "HybridActivation": "activation",
    "ReluBudget": "budget",
    "ReluSite": "budget",
    "RunResult": "results",
    "dapa": "polynomial",
    "export": "exporters",
    "fit_polynomials": "surgery",
    "prepare": "surgery",
    "relu_sites": "surgery",
    "set_mask": "surgery",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("aurep")
    if name not in _HOMES:
        raise AttributeError(f"module 'aurep' has no attribute {name!r}")
    return getattr(import_module(f"aurep.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
