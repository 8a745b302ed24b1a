"""HElayers, homomorphic encryption: no ReLU can be left, and every product costs a level."""

from __future__ import annotations

from aurep.exporters.targets.target import Target
from aurep.frameworks.helayers import FRAMEWORK

_LOADING = """\
import pyhelayers
net = pyhelayers.NeuralNetPlain()
net.init_from_files(pyhelayers.PlainModelHyperParams(), ["model.onnx"])"""

TARGET = Target(
    FRAMEWORK,
    "HElayers, homomorphic encryption: no comparison remains",
    global_pool="AveragePool",
    note="Every activation and every linear layer adds to the depth; keep the network shallow.",
    loading=_LOADING,
)
