"""What each ONNX operator costs under private inference, in elements compared.

The rule: sums, products and rearrangements by public indices are free; every other operator costs at least one
comparison an element, because whatever is not a polynomial can stand in for a ReLU: sqrt(x * x) is |x|, and
x * sigmoid(9e9 x) is ReLU. (Frameworks evaluate such functions by comparisons or look-ups anyway.) An operator that
neither table knows makes the graph uncountable. Operators on constants alone cost nothing: they are computed before the
inference. Arithmetic in 16-bit floats is refused: it rounds so coarsely that any of it could be a step, and a private
inference computes in fixed point whatever the file stores. Weights may be stored in them and cast once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aurep.operators import MAX_POWER, operators
from aurep.validators.graph.call import Call
from aurep.validators.graph.facts import FLOATS, Fact

ROUNDING = 2.0**16  # a term of this size leaves fp32 no more than 7 bits below one: adding it rounds
_HALF = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


def comparisons(call: Call) -> int:
    """Elements that `call` compares. Raises UncountableError for an operator or a use that no rule covers."""
    op = call.node.op_type
    if any(fact.elem_type in _HALF and not fact.constant for fact in call.outputs):
        raise call.refuse("computes in 16-bit floats, whose rounding can stand in for a comparison (use float32)")
    if op in _COSTS:
        return _COSTS[op](call)
    if op not in _FREE:
        raise call.refuse("is of an operator that the validator does not know to be free of comparisons")
    for index in _FREE[op]:
        fact = call.given(index)
        if fact is not None and not fact.constant:
            raise call.refuse(f"takes its input {index} from computed values instead of a constant")
    return call.leaving if _wraps(call) or rounds(call) else 0


def _wraps(call: Call) -> bool:
    """Integer arithmetic wraps around, which distinguishes signs."""
    return call.node.op_type in _ARITHMETIC and bool(call.outputs) and not call.outputs[0].is_float


def rounds(call: Call) -> bool:
    """Whether a constant is added that is so huge that the sum rounds coarsely enough to see.

    (x + 2^23) - 2^23 is round(x) in fp32. Constants too large to be folded and sums that are scaled to the same effect
    are left to the check that runs the graph with its last bits disturbed (`rounding`).
    """
    op = call.node.op_type
    if op not in SUMS:
        return False
    terms = [fact.data for i, fact in enumerate(call.inputs) if fact is not None and i not in _FACTORS.get(op, ())]
    return any(data is not None and peak(data) >= ROUNDING for data in terms)


def peak(data: NDArray[Any]) -> float:
    """The largest magnitude of those that are finite; 0 where there are none, or none are floats."""
    finite = data[np.isfinite(data)] if np.issubdtype(data.dtype, np.floating) else data[:0]
    return float(np.abs(finite.astype(np.float64)).max(initial=0))


def indices_used(call: Call) -> bool:
    """Whether a MaxPool also says where its maxima were, which is a comparison of its own use."""
    return call.node.op_type == "MaxPool" and len(call.node.output) > 1 and bool(call.node.output[1])


def _each(count: int) -> Callable[[Call], int]:
    return lambda call: count * call.leaving


def _extremum(call: Call) -> int:
    """Max and Min of n tensors: n - 1 comparisons an element; constants fold into one operand."""
    given = [fact for fact in call.inputs if fact is not None]
    computed = sum(not fact.constant for fact in given)
    return (computed + (computed < len(given)) - 1) * call.leaving


def _clip(call: Call) -> int:
    bounds = sum(fact is not None for fact in call.inputs[1:])
    return (bounds + len({"min", "max"} & set(call.attributes))) * call.leaving


def _window(call: Call) -> int:
    elements: int = prod(call.attributes["kernel_shape"])
    used = max(elements - 1, int(indices_used(call)))
    return used * call.leaving


def _reduction(call: Call) -> int:
    """A reduction to one extremum: one comparison less than the elements it takes in; none over an empty axis."""
    return max(call.entering - call.leaving, 0)


def _top_k(call: Call) -> int:
    axis = call.attributes.get("axis", -1)
    source = call.given(0)
    rows, found = call.entering, call.outputs[0].shape
    if source is None or source.shape is None or found is None:
        raise call.refuse("has a k that depends on values")
    length, k = source.shape[axis], found[axis]
    return 0 if not length else rows // length * (k * length - k * (k + 1) // 2)


def _softmax(call: Call) -> int:
    """The maximum that is subtracted, and an exponential an element. Opset < 13 flattens from `axis`: bound by all."""
    return 2 * call.entering


def _norm(call: Call) -> int:
    return call.entering


def _division(call: Call) -> int:
    divisor = call.given(1)
    public = divisor is not None and divisor.constant and call.outputs[0].is_float
    return 0 if public else call.leaving


def _power(call: Call) -> int:
    """Free where the exponent is a small constant natural number: repeated products."""
    exponent = call.given(1)
    if exponent is None or exponent.data is None or not call.outputs[0].is_float:
        return call.leaving
    values = np.asarray(exponent.data, dtype=np.float64)
    natural = bool(np.all(np.isin(values, range(MAX_POWER + 1))))
    return 0 if natural else call.leaving


def _cast(call: Call) -> int:
    """Free into floats that hold every value; into others it truncates, saturates or rounds."""
    source, target = call.given(0), call.outputs[0].elem_type
    same = source is not None and source.elem_type == target
    return 0 if target in FLOATS and (same or _width(source) <= _width(call.outputs[0])) else call.leaving


def _width(fact: Fact | None) -> int:
    """Bits of a float; integers and booleans enter floats as they are (or count where they were made)."""
    return _BITS.get(fact.elem_type, 0) if fact is not None and fact.elem_type else 64


def _quantise_dynamically(call: Call) -> int:
    return 4 * call.entering  # minimum, maximum, and saturation at both ends


def _batch_norm(call: Call) -> int:
    """Free where its statistics are constants. Otherwise it divides by computed roots: 1 / sqrt(x * x) is 1 / |x|."""
    if call.attributes.get("training_mode", 0):
        return call.entering  # a normalisation by its own statistics
    if any(fact is not None and not fact.constant for fact in call.inputs[1:]):
        raise call.refuse("normalises by computed statistics instead of constants")
    return call.leaving if rounds(call) else 0


def _dropout(call: Call) -> int:
    training = call.given(2)
    if training is not None and not (training.data is not None and not training.data.any()):
        raise call.refuse("runs in training mode")
    return 0


def _scatter(call: Call) -> int:
    indices = call.given(1)
    if indices is None or not indices.constant:
        raise call.refuse("scatters to computed indices")
    if call.attributes.get("reduction", b"none") not in (b"max", b"min"):
        return 0
    updates = call.given(2)  # any number of them may meet in one element
    if updates is None or updates.elements is None:
        raise call.refuse("scatters a number of values that is not known")
    return updates.elements


def _size(call: Call) -> int:
    return 0


_ONE = operators(
    "Relu LeakyRelu PRelu ThresholdedRelu Elu Selu Celu Abs Sign Sigmoid Tanh Softplus Softsign Gelu Mish Swish Erf "
    "Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Floor Ceil Round Mod BitShift "
    "BitwiseAnd BitwiseOr BitwiseNot BitwiseXor Greater GreaterOrEqual Less LessOrEqual Equal IsInf IsNaN ReduceL2 "
    "ReduceLogSum"
)
_TWO = operators("HardSigmoid HardSwish Shrink QuantizeLinear QLinearConv QLinearMatMul")
_NORMS = operators(
    "InstanceNormalization LayerNormalization GroupNormalization RMSNormalization MeanVarianceNormalization LRN "
    "LpNormalization ReduceL1"
)

_COSTS: dict[str, Callable[[Call], int]] = {
    **dict.fromkeys(_ONE, _each(1)),
    **dict.fromkeys(_TWO, _each(2)),
    **dict.fromkeys(_NORMS, _norm),
    **dict.fromkeys(("Max", "Min"), _extremum),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "GlobalMaxPool"), _reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "ReduceLogSumExp"), _softmax),
    **dict.fromkeys(("Cast", "CastLike"), _cast),
    "Clip": _clip,
    "MaxPool": _window,
    "TopK": _top_k,
    "Div": _division,
    "Pow": _power,
    "DynamicQuantizeLinear": _quantise_dynamically,
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
    "Shape": _size,
    "Size": _size,
}

# Operators free of comparisons, with the inputs that must be constants: an index that is computed costs a look-up.
_FREE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(operators("Add Sub Mul Neg Sum Mean MatMul Gemm Conv ConvTranspose"), ()),
    **dict.fromkeys(operators("ConvInteger MatMulInteger Einsum"), ()),
    **dict.fromkeys(operators("AveragePool GlobalAveragePool Flatten Transpose Concat DepthToSpace SpaceToDepth"), ()),
    **dict.fromkeys(operators("Identity And Or Not Xor Where DequantizeLinear"), ()),
    **dict.fromkeys(operators("Squeeze Unsqueeze ReduceSum ReduceMean ReduceSumSquare ReduceProd"), (1,)),
    **dict.fromkeys(operators("Reshape Split Gather GatherElements GatherND CumSum Expand Tile Trilu"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3),
    "Resize": (1, 2, 3),
    "ConstantOfShape": (0,),
}
_ARITHMETIC = operators(
    "Add Sub Mul Neg Sum Mean MatMul Gemm Einsum ReduceSum ReduceMean ReduceSumSquare ReduceProd CumSum Conv "
    "ConvTranspose ConvInteger MatMulInteger AveragePool GlobalAveragePool Resize"
)
# Operators that add their constants, and those of their inputs that they multiply by instead.
SUMS = operators("Add Sub Sum Mean Conv ConvTranspose Gemm BatchNormalization")
_FACTORS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "BatchNormalization": (1, 4)}
_BITS: dict[int, int] = {
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.DOUBLE: 64,
}
