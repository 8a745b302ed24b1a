"""What aurep knows of each framework, one file each. A framework is data; nothing else asks for a name.

Adding one is a file here with a `FRAMEWORK` and, for exports to it, one in `exporters/targets/`; both are found by
themselves. Rules belong to a framework, not to a file that claims to be for it: the exporters hold what they write
against them, the validators what anybody wrote.

Importing this loads neither numpy nor onnx, since the command line lists the names.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from aurep.errors import AurepError
from aurep.frameworks import common
from aurep.frameworks.fault import Fault, Graph
from aurep.frameworks.framework import FixedPoint, Framework, Parties, Protocol

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = [
    "DRIVEN",
    "FRAMEWORKS",
    "Fault",
    "FixedPoint",
    "Framework",
    "Parties",
    "Protocol",
    "find_driven",
    "find_faults",
]

_MODULES = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
_FOUND: list[Framework] = [module.FRAMEWORK for module in _MODULES if hasattr(module, "FRAMEWORK")]
FRAMEWORKS = {framework.name: framework for framework in _FOUND}
DRIVEN = {name: framework for name, framework in FRAMEWORKS.items() if framework.parties is not None}


def find_driven(name: str) -> Framework:
    """A framework that `aurep handoff` runs. Raises AurepError where it runs none of that name."""
    if name not in DRIVEN:
        raise AurepError(f"there is no framework {name!r} to run; choose one of {', '.join(DRIVEN)}.")
    return DRIVEN[name]


def find_faults(model: ModelProto, name: str) -> list[Fault]:
    """What keeps the framework `name` from taking `model`: its own rules and those of all, where it has any; otherwise
    custom operators alone."""
    graph, framework = Graph(model), FRAMEWORKS.get(name)
    if framework is None or framework.faults is None:
        return list(common.custom_operators(graph))
    return [*framework.faults(graph), *common.faults(graph)]
