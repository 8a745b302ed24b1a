"""How each target's file is written, one file each. A target is data; nothing else in the exporters asks for a name.

Adding one is a file here with a `TARGET`. What its framework takes and refuses stands in `aurep.frameworks`.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module

from aurep.errors import AurepError
from aurep.exporters.targets.target import Form, Place, Target

__all__ = ["TARGETS", "Form", "Place", "Target", "find_target"]

_MODULES = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
TARGETS: dict[str, Target] = {module.TARGET.name: module.TARGET for module in _MODULES if hasattr(module, "TARGET")}


def find_target(name: str, *, secret_coefficients: bool = False, push_constants: bool = False) -> Target:
    """The target called `name`, with its coefficients secret (as initializers) or its constants pushed on request.

    Raises:
        AurepError: no such target, or one whose form of a site keeps its constants.
    """
    if name not in TARGETS:
        raise AurepError(f"there is no target {name!r}; choose one of {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if push_constants:
        if not target.framework.pushes:
            able = " or ".join(other.name for other in TARGETS.values() if other.framework.pushes)
            raise AurepError(f"target {name} keeps its constants in the sites; push constants with target {able} only.")
        target = replace(target, push=True)
    # A secret coefficient makes every term a product of two secrets; Horner's form then has the fewer rounds.
    return replace(target, coefficients_as="initializer", square=False) if secret_coefficients else target
