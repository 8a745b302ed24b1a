"""The activations that a site can stand for, and what a network calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import activation as torch_activations

from aurep.errors import AurepError

KINDS: dict[str, tuple[type[nn.Module], tuple[Callable[..., Any], ...], tuple[str, ...]]] = {
    # name: module class, functions, methods
    "relu": (nn.ReLU, (F.relu, F.relu_, torch.relu, torch.relu_), ("relu", "relu_")),
    "relu6": (nn.ReLU6, (F.relu6,), ()),
    "silu": (nn.SiLU, (F.silu,), ()),
    "hardswish": (nn.Hardswish, (F.hardswish,), ()),
    "gelu": (nn.GELU, (F.gelu,), ()),
}
_KNOWN = {  # as functions and classes are written, without underscores and capitals
    name.lower(): name for name in torch_activations.__all__ if name != "MultiheadAttention"
} | {name: name for name in KINDS}


def chosen_kinds(replace: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds that `replace` names: all that there are for "auto". Raises AurepError for an unknown one."""
    if replace == "auto":
        return tuple(KINDS)
    if isinstance(replace, str) or not replace or any(kind not in KINDS for kind in replace):
        raise AurepError(f'replace={replace!r} is not known; give "auto" or a tuple of {", ".join(KINDS)}.')
    return tuple(replace)


def kind_of(node: fx.Node, module: nn.Module, kinds: Sequence[str]) -> str | None:
    """Which of `kinds` the call `node` in the forward of `module` is; None: none."""
    for kind in kinds:
        cls, functions, methods = KINDS[kind]
        if node.op == "call_module" and type(module.get_submodule(str(node.target))) is cls:
            return kind
        if node.op == "call_function" and node.target in functions:
            return kind
        if node.op == "call_method" and node.target in methods:
            return kind
    return None


def nothing_to_replace(model: nn.Module, kinds: Sequence[str]) -> AurepError:
    """What to say of a network that calls none of `kinds`: the activations that it has, and what can be done."""
    found = Counter(name for name in map(_known, _calls(model)) if name is not None)
    listed = ", ".join(f"{name} ({count})" for name, count in found.items())
    others = [kind for kind in KINDS if kind in found]
    if others:
        advice = f'take over {" and ".join(others)} with replace={tuple(others)!r}, or all with replace="auto"'
    else:
        advice = f"aurep takes over {', '.join(KINDS)}: write one of them in the network's forward"
    return AurepError(f"the model calls none of {', '.join(kinds)}; its activations are {listed or 'none'}; {advice}.")


def _calls(model: nn.Module) -> list[str]:
    """What a traced model calls, as written there, in order; of an untraced one, its modules' classes."""
    if not isinstance(model, fx.GraphModule):
        return [type(module).__name__ for module in model.modules()]
    called = [
        model.get_submodule(str(node.target)).__class__ if node.op == "call_module" else node.target
        for node in model.graph.nodes
        if node.op.startswith("call")
    ]
    return [str(getattr(target, "__name__", target)) for target in called]


def _known(written: str) -> str | None:
    return _KNOWN.get(written.lower().replace("_", ""))
