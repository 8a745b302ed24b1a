"""Telling max-pooling proper from max-pooling over values arranged so that it becomes max(x, 0).

A tensor is *uniform* where every spatial position holds the same function of a shifted input image, as convolutions
leave it. Pooling neighbours of a uniform tensor compares like with like. Whatever sets other values beside an element
(a concatenation, a transposed convolution's zeros, padding that makes a map grow, a reshape of channels into space)
ends uniformity, and pooling what comes of it counts as ReLU-like.

This bounds, and does not exclude: positions at the edge of a map that keeps its size see the zeros beside the image,
as in any padded network, and weights chosen for it can make a maximum over them a ReLU. There are no more of these
than the comparisons by max-pooling, which the report and the claim name apart.
"""

from __future__ import annotations

from aurep.operators import operators
from aurep.validators.graph.call import Call
from aurep.validators.graph.costs import indices_used
from aurep.validators.graph.facts import Fact

_POINTWISE = operators(
    "Relu LeakyRelu Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu Celu Softplus Softsign Mish Gelu Erf Exp Abs Sqrt "
    "Max Min Add Sub Mul Div Pow Neg Identity Dropout Cast"
)
_WINDOWS = operators("Conv MaxPool AveragePool")


def is_pooling(call: Call) -> bool:
    """Whether the comparisons take maxima over neighbours of one feature map."""
    kinds = ("MaxPool", "GlobalMaxPool")
    source = call.given(0)
    plain = call.node.op_type in kinds and source is not None and source.uniform
    dilated = any(step != 1 for step in call.attributes.get("dilations", ()))
    return plain and not dilated and not indices_used(call)


def keeps_uniform(call: Call) -> bool:
    """Whether the output is uniform (see `Fact`) given uniform inputs: true of what treats all positions alike.

    Padding that makes a map grow would set zeros beside the image for a later pooling to compare with.
    """
    op, tensors = call.node.op_type, [fact for fact in call.inputs if fact is not None]
    uniform = [fact for fact in tensors if fact.uniform and not fact.constant]
    others = [fact for fact in tensors if not fact.uniform or fact.constant]
    if not uniform or indices_used(call):
        return False
    if op == "Concat":
        return call.attributes.get("axis") == 1 and not others
    alone = uniform == [call.given(0)] and all(fact.constant for fact in others)
    if op in _WINDOWS:
        return alone and _stays_on_image(call)
    if op == "BatchNormalization":
        return alone
    return op in _POINTWISE and all(_same_everywhere(fact, len(uniform[0].shape or ())) for fact in others)


def _same_everywhere(fact: Fact, rank: int) -> bool:
    """Broadcast against a (N, C, H, W) tensor, does `fact` have one value per image and channel at most?"""
    shape = fact.shape
    return shape is not None and len(shape) <= rank and all(dim == 1 for dim in shape[-2:])


def _stays_on_image(call: Call) -> bool:
    """Whether every output position lies over the image: padding up to that which keeps the size, and no more.

    A wider border turns the zeros beside the image into positions of their own, next to which max(x, 0) is a pooling.
    That of a max-pooling holds no zeros, but makes two positions of one, which a later convolution tells apart.
    """
    weight = call.given(1)
    default = weight.shape[2:] if weight is not None and weight.shape else ()
    kernel = list(call.attributes.get("kernel_shape", default))
    pads = list(call.attributes.get("pads", [0] * 2 * len(kernel)))
    dilations = list(call.attributes.get("dilations", [1] * len(kernel)))
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=False)]
    if len(pads) != 2 * len(reach):
        return False
    borders = zip(pads, pads[len(reach) :], reach, strict=False)
    return all(min(a, b) >= 0 and a + b <= most and max(a, b) <= -(-most // 2) for a, b, most in borders)
