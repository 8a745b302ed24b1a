"""Both parts of every site at every element: what a form costs that saves nothing."""

from __future__ import annotations

from aurep.exporters.targets.target import ONNX_RUNTIME, Target

TARGET = Target(
    "mask",
    "the mask-and-multiply form, as a baseline to compare with",
    form="mask",
    fixed_batch=False,
    note="This form evaluates ReLU at every element of a site with kept elements and saves nothing under private "
    "inference; it is meant for comparison and for compilers that reject Gather.",
    loading=ONNX_RUNTIME,
)
