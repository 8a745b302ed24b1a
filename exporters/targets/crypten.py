"""CrypTen: initializers are secret there, Constant nodes public, and a square is cheaper than a product."""

from __future__ import annotations

from aurep.exporters.targets.target import Target
from aurep.frameworks.crypten import FRAMEWORK

_LOADING = """\
import crypten, io
crypten.init()
model = crypten.nn.from_onnx(io.BytesIO(open("model.onnx", "rb").read()))  # the other party: skeleton.onnx
model.encrypt(src=0)
logits = model(crypten.cryptensor(inputs, src=1)).get_plain_text()  # inputs: a torch tensor of the file's batch"""

TARGET = Target(
    FRAMEWORK,
    "CrypTen, with secret weights and public masks and coefficients",
    integers_as="constant",
    coefficients_as="constant",
    square=True,
    skeleton=True,
    note="Initializers are secret, Constant nodes are public.",
    loading=_LOADING,
)
