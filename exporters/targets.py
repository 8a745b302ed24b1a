"""How each target's file is written. A target is data; nothing else in the exporters asks for a name.

What a framework refuses stands in `aurep.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from aurep.errors import AurepError

Form = Literal["gather", "max", "mask"]
Place = Literal["initializer", "constant"]


@dataclass(frozen=True)
class Target:
    """The rules of one target.

    Args:
        name: as given on the command line.
        summary: one clause for the card: what this file is for.
        form: how a site with both kept and replaced elements is written (see `passes/sites.py`).
        opset: ONNX operator set of the file.
        ir_version: ONNX IR version of the file.
        functions: polynomials stay calls of `ai.aurep::Polynomial`; otherwise they are written out.
        integers: where index and shape tensors live, and what else says what an operator does.
        coefficients: where polynomial coefficients live. CrypTen encrypts initializers and leaves Constants public.
        square: polynomials of degree 2 are c2 x^2 + c1 x + c0 instead of Horner's form: a framework that squares by
        opening
            one masked value, where a product opens two, sends half as much for them.
        fixed_batch: the framework needs a static batch size.
        global_pool: operator for the mean over all positions.
        push: constant terms of the sites are carried into the constants of what follows (see `passes/push.py`).
        skeleton: the bundle also gets `skeleton.onnx`, the graph with zero weights.
        note: what its user must know, a sentence.
        loading: lines of the card that load the file.
    """

    name: str
    summary: str
    form: Form = "gather"
    opset: int = 17
    ir_version: int = 8
    functions: bool = False
    integers: Place = "initializer"
    coefficients: Place = "initializer"
    square: bool = False
    fixed_batch: bool = True
    global_pool: Literal["GlobalAveragePool", "AveragePool"] = "GlobalAveragePool"
    push: bool = False
    skeleton: bool = False
    note: str = ""
    loading: str = ""


_SESSION = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
samples = np.load("samples.npz")
(logits,) = session.run(None, {"input": samples["inputs"]@BATCH@})"""

_CRYPTEN = """\
import crypten, io
crypten.init()
model = crypten.nn.from_onnx(io.BytesIO(open("model.onnx", "rb").read()))  # the other party: skeleton.onnx
model.encrypt(src=0)
logits = model(crypten.cryptensor(inputs, src=1)).get_plain_text()  # inputs: a torch tensor of the file's batch"""

_SPU = """\
import onnx, onnx_to_jax  # aurep/handoff/parties/onnx_to_jax.py; it needs JAX and onnx only
graph = onnx.load("model.onnx").graph
secret = onnx_to_jax.secret_names(graph)  # the weights; onnx_to_jax.evaluate(graph, values) is the function
# compile it with spu.utils.frontend.compile(Kind.JAX, ...), one process per party: `aurep handoff` does"""

_HELAYERS = """\
import pyhelayers
net = pyhelayers.NeuralNetPlain()
net.init_from_files(pyhelayers.PlainModelHyperParams(), ["model.onnx"])"""


_ALL = (
    Target(
        "onnx",
        "the canonical graph, for any ONNX tool",
        functions=True,
        fixed_batch=False,
        loading=_SESSION,
    ),
    Target(
        "onnxruntime",
        "the fastest plain serving, for testing and for comparison; not for private inference",
        form="max",
        fixed_batch=False,
        note="Every element of a site with kept elements passes through a Max, so this form saves nothing under "
        "private inference; export for `onnx`, `crypten` or `spu` for that.",
        loading=_SESSION,
    ),
    Target(
        "crypten",
        "CrypTen, with secret weights and public masks and coefficients",
        integers="constant",
        coefficients="constant",
        square=True,
        skeleton=True,
        note="Initializers are secret, Constant nodes are public.",
        loading=_CRYPTEN,
    ),
    Target("spu", "SecretFlow SPU, by way of JAX", loading=_SPU),
    Target(
        "helayers",
        "HElayers, homomorphic encryption: no comparison remains",
        global_pool="AveragePool",
        note="Every activation and every linear layer adds to the depth; keep the network shallow.",
        loading=_HELAYERS,
    ),
    Target(
        "mask",
        "the mask-and-multiply form, as a baseline to compare with",
        form="mask",
        fixed_batch=False,
        note="This form evaluates ReLU at every element of a site with kept elements and saves nothing under private "
        "inference; it is meant for comparison and for compilers that reject Gather.",
        loading=_SESSION,
    ),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def find_target(name: str, *, secret_coefficients: bool = False, push_constants: bool = False) -> Target:
    """The target called `name`, with its coefficients secret (as initializers) or its constants pushed on request.

    Raises:
        AurepError: no such target, or one whose form of a site keeps its constants.
    """
    if name not in TARGETS:
        raise AurepError(f"there is no target {name!r}; choose one of {', '.join(TARGETS)}.")
    target = TARGETS[name]
    if push_constants:
        if target.form != "max":
            able = " or ".join(other.name for other in _ALL if other.form == "max")
            raise AurepError(f"target {name} keeps its constants in the sites; push constants with target {able} only.")
        target = replace(target, push=True)
    # A secret coefficient makes every term a product of two secrets; Horner's form then has the fewer rounds.
    return replace(target, coefficients="initializer", square=False) if secret_coefficients else target
