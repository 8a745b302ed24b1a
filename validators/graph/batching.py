"""Does a graph treat the images of a fixed batch one by one?

A tensor has *rows* where axis 0 is the batch and row i depends on image i alone. Only where every computed tensor has
rows may a count be divided by the batch: otherwise all rows could work for one image. What no rule here covers is taken
to mix images, which costs an honest graph no more than the division.
"""

from __future__ import annotations

from aurep.operators import operators
from aurep.validators.graph.call import Call
from aurep.validators.graph.facts import Fact

_ELEMENTWISE = operators(
    "Add Sub Mul Div Pow Neg Sum Mean Max Min Clip Where Cast Identity Dropout Relu LeakyRelu PRelu Elu Selu Celu Abs "
    "Sign Sigmoid HardSigmoid HardSwish Tanh Softplus Softsign Gelu Mish Swish Erf Exp Log Sqrt Reciprocal And Or Not "
    "Xor Greater GreaterOrEqual Less LessOrEqual Equal Floor Ceil Round QuantizeLinear DequantizeLinear"
)
_IMAGEWISE = operators(  # of a first input with rows; the rest constant
    "Conv ConvTranspose BatchNormalization MaxPool AveragePool GlobalAveragePool GlobalMaxPool LRN "
    "InstanceNormalization GroupNormalization DepthToSpace SpaceToDepth Reshape Squeeze Unsqueeze Tile"
)
# Operators that must leave axis 0 alone, with the axis that they take by default.
_ONE_AXIS = {
    **dict.fromkeys(("Gather", "GatherElements", "Concat", "Split"), 0),
    **dict.fromkeys(("Flatten", "Softmax", "LogSoftmax"), 1),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), -1),
}
_REDUCTIONS = operators("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceSumSquare ReduceL1 ReduceL2")


def keeps_rows(call: Call) -> bool:
    """Whether all outputs have rows."""
    data = [fact for fact in call.inputs if fact is not None and not fact.constant]
    first = call.given(0)
    if not data or not all(fact.rows and fact.shape for fact in data):
        return False
    batch = (data[0].shape or (0,))[0]
    if any(not fact.shape or fact.shape[0] != batch for fact in [*data, *call.outputs]):
        return False
    op = call.node.op_type
    if op in _ELEMENTWISE:
        return all(len(fact.shape or ()) == len(call.outputs[0].shape or ()) for fact in data)
    if op == "Concat":
        return _axis(call, data[0]) != 0
    if op == "MatMul":
        return _keeps_rows_of_product(call)
    if op == "Einsum":
        return _keeps_rows_of_einsum(call)
    if len(data) > 1 or first is not data[0]:
        return False
    if op in _IMAGEWISE:
        return len(call.outputs) == 1
    if op in _ONE_AXIS:
        return _axis(call, first) != 0
    if op == "Expand":
        return len(call.outputs[0].shape or ()) == len(first.shape or ())
    if op == "Resize":
        return _resizes_no_row(call)
    if op == "Gemm":
        return not call.attributes.get("transA", 0)
    if op == "Transpose":
        return bool(next(iter(call.attributes.get("perm", [1]))) == 0)
    if op == "Pad":
        return _pads_no_row(call, first)
    return (op in _REDUCTIONS or op == "Slice") and 0 not in _axes(call, first)


def _axis(call: Call, source: Fact) -> int:
    axis: int = call.attributes.get("axis", _ONE_AXIS[call.node.op_type])
    return axis % len(source.shape or (1,))


def _axes(call: Call, source: Fact) -> set[int]:
    """Axes that a reduction or a slice works on; axis 0 is among them where they are not known."""
    given = call.given(3 if call.node.op_type == "Slice" else 1)
    axes = call.attributes.get("axes")
    if axes is None and given is not None and given.data is not None and given.data.size:
        axes = given.data.reshape(-1).tolist()
    rank = len(source.shape or (1,))
    return {axis % rank for axis in axes} if axes else {0}


def _pads_no_row(call: Call, source: Fact) -> bool:
    given, rank = call.given(1), len(source.shape or ())
    pads = call.attributes.get("pads")
    if pads is None and given is not None and given.data is not None and call.given(3) is None:
        pads = given.data.reshape(-1).tolist()
    return pads is not None and len(pads) == 2 * rank and pads[0] == pads[rank] == 0


def _keeps_rows_of_product(call: Call) -> bool:
    a, b = call.given(0), call.given(1)
    if a is None or b is None or a.shape is None or b.shape is None:
        return False
    if b.constant:
        return len(b.shape) <= 2 <= len(a.shape)
    return len(b.shape) >= 3 and (len(a.shape) <= 2 if a.constant else len(a.shape) == len(b.shape))


def _keeps_rows_of_einsum(call: Call) -> bool:
    """Whether one letter, which no constant has, stands for the images, first in every computed term and the result."""
    terms, arrow, result = call.attributes["equation"].decode(errors="replace").replace(" ", "").partition("->")
    pairs = list(zip(terms.split(","), call.inputs, strict=False))
    computed = [term for term, fact in pairs if fact is not None and not fact.constant]
    others = [term for term, fact in pairs if fact is not None and fact.constant]
    letter = result[:1]
    if not arrow or not letter.isalpha() or any(letter in term for term in others):
        return False
    return all(term[:1] == letter and term.count(letter) == 1 for term in [*computed, result])


def _resizes_no_row(call: Call) -> bool:
    """Whether axis 0 is of scale 1 exactly; crops are not looked into."""
    settings = call.attributes
    if settings.get("coordinate_transformation_mode") == b"tf_crop_and_resize":
        return False
    if settings.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return False
    if "axes" in settings:
        rank = len((call.given(0) or call.outputs[0]).shape or (1,))
        return all(axis % rank for axis in settings["axes"])
    scales = call.given(1 if len(call.inputs) == 2 else 2)  # before opset 11 it has no other input
    return scales is None or scales.elements == 0 or (scales.data is not None and scales.data.flat[0] == 1)
