"""A frozen network as it is run in bfloat16, a teacher in every step of its student.

In eval mode a batch norm is a map per channel, which goes into the convolution before it,

    gamma (w * x - mean) / sigma + beta = (gamma / sigma) w * x + (beta - gamma mean / sigma),

so that it costs no pass over memory; and weights are cast once, which autocast would do anew in every step.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aurep.surgery.tracing import Untraceable, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CAST = (*_CONVOLUTIONS, nn.Linear)  # what autocast would cast the weights of


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model`, in eval mode, that computes the same under autocast to bfloat16, but for rounding.

    A network that torch.fx cannot trace has its weights cast alone.
    """
    work = copy.deepcopy(model).eval()
    try:
        module = fx.GraphModule(work, trace(work))
    except Untraceable:
        return _cast(work)
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    for node in list(module.graph.nodes):
        before = node.args[0] if node.op == "call_module" else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = (module.get_submodule(str(n.target)) for n in (before, node))
        once = calls.count(str(before.target)) == 1  # shared by other calls, its weights are theirs too
        if not (isinstance(convolution, _CONVOLUTIONS) and isinstance(norm, _NORMS)):
            continue
        if once and norm.track_running_stats:
            module.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
    module.recompile()
    return _cast(module.eval())


def _cast(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) in _CAST:
            module.to(torch.bfloat16)
    return model
