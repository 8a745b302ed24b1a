"""Both parts of every site at every element: what a form costs that saves nothing."""

from __future__ import annotations

from aurep.exporters.targets.target import ONNX_RUNTIME, Target
from aurep.frameworks.mask import FRAMEWORK

TARGET = Target(
    FRAMEWORK,
    "the mask-and-multiply form, as a baseline to compare with",
    form="mask",
    note="This form evaluates ReLU at every element of a site with kept elements and saves nothing under private "
    "inference; it is meant for comparison and for compilers that reject Gather.",
    loading=ONNX_RUNTIME,
)
