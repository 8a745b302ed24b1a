"""What each framework takes, as named rules on ONNX graphs.

The exporters hold what they write against them, the validators what anybody wrote. A rule belongs to a framework, not
to a file that claims to be for it, so that both may share them.
"""

from __future__ import annotations

import onnx

from aurep.rules import common, crypten, helayers, spu
from aurep.rules.fault import Fault, Graph

__all__ = ["FRAMEWORK_TARGETS", "Fault", "find_faults"]

_RULES = {"crypten": crypten.faults, "spu": spu.faults, "helayers": helayers.faults}
FRAMEWORK_TARGETS = tuple(_RULES)


def find_faults(model: onnx.ModelProto, target: str) -> list[Fault]:
    """What keeps `target` from taking `model`: custom operators always, and the rules of a framework where it is
    one."""
    graph = Graph(model)
    if target not in _RULES:
        return list(common.custom_operators(graph))
    return [*_RULES[target](graph), *common.faults(graph)]
