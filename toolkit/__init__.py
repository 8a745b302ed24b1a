"""aurep: CNNs that are cheap under private inference.

Search which activation elements stay ReLU within a budget, replace the others by fitted polynomials, retrain against
a teacher, export ONNX, validate. Names are imported on first use, so `import aurep` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aurep import exporters, validators
    from aurep.activation import HybridActivation
    from aurep.budget import ReluBudget, ReluSite
    from aurep.errors import AurepError
    from aurep.exporters import export
    from aurep.polynomial import dapa
    from aurep.results import RunResult
    from aurep.surgery import fit_polynomials, prepare, relu_sites, set_mask
    from aurep.training import load_run, train
    from aurep.validators import count_relus, validate

__all__ = [
    "AurepError",
    "HybridActivation",
    "ReluBudget",
    "ReluSite",
    "RunResult",
    "__version__",
    "count_relus",
    "dapa",
    "export",
    "exporters",
    "fit_polynomials",
    "load_run",
    "prepare",
    "relu_sites",
    "set_mask",
    "train",
    "validate",
    "validators",
]

_HOMES = {
    "AurepError": "errors",
    "HybridActivation": "activation",
    "ReluBudget": "budget",
    "ReluSite": "budget",
    "RunResult": "results",
    "count_relus": "validators",
    "dapa": "polynomial",
    "export": "exporters",
    "fit_polynomials": "surgery",
    "load_run": "training",
    "prepare": "surgery",
    "relu_sites": "surgery",
    "set_mask": "surgery",
    "train": "training",
    "validate": "validators",
}
_PACKAGES = ("exporters", "validators")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("aurep")
    if name in _PACKAGES:
        return import_module(f"aurep.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'aurep' has no attribute {name!r}")
    return getattr(import_module(f"aurep.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
