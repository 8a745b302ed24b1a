"""How the files for two frameworks can differ in what the exporter writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aurep.frameworks import Framework

Form = Literal["gather", "max", "mask"]
Place = Literal["initializer", "constant"]

# Lines of a card that load the file in ONNX Runtime.
ONNX_RUNTIME = """\
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
samples = np.load("samples.npz")
(logits,) = session.run(None, {"input": samples["inputs"]@BATCH@})"""


@dataclass(frozen=True)
class Target:
    """How files are written for one framework.

    Args:
        framework: who runs them; its name is the target's.
        summary: one clause for the card: what this file is for.
        form: how a site with both kept and replaced elements is written (see `passes/sites.py`).
        functions: polynomials stay calls of `ai.aurep::Polynomial`; otherwise they are written out.
        integers_as: where index and shape tensors live, and what else says what an operator does.
        coefficients_as: where polynomial coefficients live. CrypTen encrypts initializers and leaves Constants public.
        square: polynomials of degree 2 are c2 x^2 + c1 x + c0 instead of Horner's form: a framework that squares by
            opening one masked value, where a product opens two, sends half as much for them.
        global_pool: operator for the mean over all positions.
        push: constant terms of the sites are carried into the constants of what follows (see `passes/push.py`).
        skeleton: the bundle also gets `skeleton.onnx`, the graph with zero weights.
        note: what its user must know, a sentence.
        loading: lines of the card that load the file.
    """

    framework: Framework
    summary: str
    form: Form = "gather"
    functions: bool = False
    integers_as: Place = "initializer"
    coefficients_as: Place = "initializer"
    square: bool = False
    global_pool: Literal["GlobalAveragePool", "AveragePool"] = "GlobalAveragePool"
    push: bool = False
    skeleton: bool = False
    note: str = ""
    loading: str = ""

    @property
    def name(self) -> str:
        return self.framework.name
