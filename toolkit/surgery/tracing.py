"""Finding activation calls in a network's forward, and putting something else in their place.

A site is named by the module path of its call: ``layer1.0.relu``. Further calls of the same module are
``layer1.0.relu:1``, ``:2``; a functional call in the forward of ``layer1.0`` is ``layer1.0.relu`` likewise.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from aurep.activation import HybridActivation
from aurep.errors import AurepError
from aurep.surgery.kinds import KINDS, kind_of
from aurep.surgery.pooling import average_pool

_IN_PLACE = (F.relu_, torch.relu_)
_MAX_POOLS: dict[Any, Any] = {
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}
_INDEXED_POOLS = (F.max_pool2d_with_indices, F.adaptive_max_pool2d_with_indices)
MakeSite = Callable[[tuple[int, ...], str, str], HybridActivation]  # of a shape, a site's name, what it replaces


class Untraceable(Exception):
    """Why torch.fx cannot follow a network: a clause that names the line."""


def trace(model: nn.Module) -> fx.Graph:
    """The network's graph. Raises Untraceable where control flow depends on data or on train/eval mode."""
    mode = model.training
    try:
        graphs = [fx.Tracer().trace(model.train(training)) for training in (True, False)]
    except Exception as error:  # the network's own code runs here, on stand-ins that it was not written for
        raise Untraceable(f"torch.fx cannot trace the model ({error}) at {_user_line(error)}") from error
    finally:
        model.train(mode)
    for node, other in zip(graphs[0].nodes, graphs[1].nodes, strict=False):
        if node.format_node() != other.format_node():
            raise Untraceable(f"its forward depends on self.training at {node.format_node()!r}")
    return graphs[1]


def _user_line(error: Exception) -> str:
    """File and line of the last frame outside torch."""
    inside = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(inside)]
    frame = frames[-1]
    return f"{frame.filename}:{frame.lineno}: {frame.line}"


def replace_nodes(
    root: nn.Module, graph: fx.Graph, inputs: tuple[Tensor, ...], kinds: tuple[str, ...], make: MakeSite, avg: bool
) -> fx.GraphModule:
    """Give every activation call in `graph` a site of its own, and every functional max-pooling an average if `avg`."""
    module = fx.GraphModule(root, graph)
    module.eval()
    with torch.no_grad():
        ShapeProp(module).propagate(*inputs)
    used: set[str] = set()
    calls = [(node, kind_of(node, module, kinds)) for node in module.graph.nodes]
    rectifies = {node for node, kind in calls if kind is not None and is_in_place(node, module)}
    for node, kind in calls:  # classified beforehand: a site takes its module's place, and other calls look there
        if kind is not None:
            _put_site(node, kind, module, used, make, node in rectifies)
        elif avg and node.op == "call_function" and node.target in _INDEXED_POOLS:
            raise AurepError(f"{node.format_node()} returns indices, which average-pooling has none of: maxpool='max'.")
        elif avg and node.op == "call_function" and node.target in _MAX_POOLS:
            _put_average(node, module, used)
    module.graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def tap_nodes(root: nn.Module, graph: fx.Graph, kinds: tuple[str, ...]) -> tuple[fx.GraphModule, list[nn.Module]]:
    """The network of `graph`, sharing `root`'s modules, and an identity after every activation call, in order."""
    module = fx.GraphModule(root, graph)
    taps: list[nn.Module] = []
    for node in [node for node in module.graph.nodes if kind_of(node, module, kinds) is not None]:
        taps.append(nn.Identity())
        name = f"activation_tap_{len(taps)}"
        module.add_submodule(name, taps[-1])
        with module.graph.inserting_after(node):
            tap = module.graph.call_module(name)
        node.replace_all_uses_with(tap)
        tap.args = (node,)
    module.graph.lint()
    module.recompile()
    return module, taps


def _put_site(
    node: fx.Node, kind: str, module: fx.GraphModule, used: set[str], make: MakeSite, rectifies: bool
) -> None:
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, fx.Node)
    if rectifies:  # in place: from here on the program sees x rectified: say so, since the site leaves x alone
        source.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node and user > node)
    name = _free_name(node, kind, module, used)
    module.add_submodule(name, make(tuple(node.meta["tensor_meta"].shape[1:]), name, kind))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


def is_in_place(node: fx.Node, module: nn.Module) -> bool:
    """Whether an activation's call overwrites its input."""
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    if node.op == "call_method":
        return str(node.target).endswith("_")
    return node.target in _IN_PLACE or bool(node.kwargs.get("inplace", False) or node.args[1:2] == (True,))


def _free_name(node: fx.Node, kind: str, module: nn.Module, used: set[str]) -> str:
    if node.op == "call_module":
        base = str(node.target)
    else:
        stack = list(node.meta.get("nn_module_stack", {}).values())
        owner = stack[-1][0] if stack else ""
        base = f"{owner}.{kind}" if owner else kind
    name, calls = base, 0
    while name in used or (name != str(node.target) and _exists(module, name)):
        calls += 1
        name = f"{base}:{calls}"
    used.add(name)
    return name


def _exists(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    try:
        return hasattr(module.get_submodule(parent), name)
    except AttributeError:  # a module without tensors, which torch.fx leaves out
        return False


def _put_average(node: fx.Node, module: fx.GraphModule, used: set[str]) -> None:
    options = {k: v for k, v in node.kwargs.items() if k not in ("input", "return_indices")}
    pool = _MAX_POOLS[node.target](*node.args[1:], **options)
    source = node.args[0] if node.args else node.kwargs["input"]
    name = _free_name(node, "avg_pool", module, used)
    module.add_submodule(name, average_pool(pool))
    node.op, node.target, node.args, node.kwargs = "call_module", name, (source,), {}


class _FunctionCalls(TorchFunctionMode):
    """Counts activation calls, those made by activation modules included."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.functions = {f for kind in kinds for f in KINDS[kind][1]} | {torch.Tensor.relu, torch.Tensor.relu_}
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in self.functions
        return func(*args, **(kwargs or {}))


def replace_modules(
    model: nn.Module, inputs: tuple[Tensor, ...], kinds: tuple[str, ...], make: MakeSite, reason: Untraceable
) -> nn.Module:
    """The fallback: swap activation modules in place. Raises AurepError unless each is called once, as a module."""
    classes = {KINDS[kind][0]: kind for kind in kinds}
    found = {name: m for name, m in model.named_modules() if type(m) in classes}
    calls: dict[str, list[tuple[int, ...]]] = {name: [] for name in found}
    hooks = [
        m.register_forward_hook(lambda _m, _args, out, name=name: calls[name].append(tuple(out.shape[1:])))
        for name, m in found.items()
    ]
    mode = model.training
    with torch.no_grad(), _FunctionCalls(kinds) as functions:
        model.eval()(*inputs)
    for hook in hooks:
        hook.remove()
    model.train(mode)
    twice = [name for name, shapes in calls.items() if len(shapes) > 1]
    if twice or functions.count > sum(map(len, calls.values())):
        what = f"it calls {twice[0]} more than once" if twice else "it calls an activation as a function"
        raise AurepError(
            f"{reason}, and its activation modules cannot be replaced one by one since {what}; make that line "
            "traceable, or give every call a module of its own."
        )
    for name, shapes in calls.items():
        if shapes:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, make(shapes[0], name, classes[type(found[name])]))
    return model
