"""Where a model runs is said truthfully."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from aurep.errors import AurepError
from aurep.validators.checks.tolerances import DISTURBANCE
from aurep.validators.session import Session
from aurep.validators.validation import validate  # in this process, where things can be put in its way
from tests.validators.graphs import parse

NO_CUDA = ["CPUExecutionProvider"]


def test_cuda_without_cuda_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: NO_CUDA)
    with pytest.raises(AurepError, match="cuda"):
        validate(bundle, provider="cuda")


def test_a_silent_fallback_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA where its library is, device or not, and opens the session on the CPU."""

    class Fallen(ort.InferenceSession):
        def get_providers(self) -> list[str]:
            return NO_CUDA

    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", *NO_CUDA])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda data, options, providers: Fallen(data, ort.SessionOptions(), NO_CUDA)
    )
    with pytest.raises(AurepError, match="fell back"):
        validate(bundle, provider="cuda")
    assert validate(bundle, provider="auto").provider == "cpu"


def test_the_session_is_quiet(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    validate(bundle, provider="cpu")
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_an_unknown_provider_is_wrong_usage(bundle: Path) -> None:
    with pytest.raises(AurepError, match="tpu"):
        validate(bundle, provider="tpu")


def test_a_plain_file_is_loaded_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with its numbers disturbed: loading is what large graphs cost most time."""
    opened = []

    class Counted(ort.InferenceSession):
        def __init__(self, data: bytes, *settings: Any, **named: Any) -> None:
            opened.append(onnx.ModelProto.FromString(data))
            super().__init__(data, *settings, **named)

    model = parse("""g (float[N, 2, 4, 4] x) => (float[N, 2] y)
 <float[2, 1, 1] b = {0.5, 1.0}> { a = Add(x, b) r = Relu(a) p = GlobalAveragePool(r) y = Flatten(p) }""")
    onnx.save(model, tmp_path / "model.onnx")
    monkeypatch.setattr(ort, "InferenceSession", Counted)
    assert validate(tmp_path / "model.onnx", budget=32, provider="cpu").passed
    plain, disturbed = opened
    assert len(plain.graph.node) == 4
    # x and r, which are computed, by two nodes each; b, of which a large graph has thousands, by its value
    assert len(disturbed.graph.node) == 8
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in disturbed.graph.initializer}
    (add,) = (node for node in disturbed.graph.node if node.output[0] == "a")
    moved = stored[add.input[1]] / stored["b"] - 1
    assert abs(moved).min() > 0
    assert abs(moved).max() < 3 * DISTURBANCE


@pytest.mark.parametrize(("side", "together"), [(32, 64), (224, 6), (2_000, 1)])
def test_large_images_go_a_few_at_a_time(side: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else ImageNet's networks pass the limit on memory with activations alone."""
    shape = f"float[N, 3, {side}"
    text = f"g ({shape}, {side}] x) => ({shape}, 1] y) {{ y = ReduceMax <axes = [3]> (x) }}"
    session = Session(parse(text), "cpu")
    sizes: list[int] = []
    ran = session._session.run
    monkeypatch.setattr(
        session, "_session", SimpleNamespace(run=lambda names, fed: (sizes.append(len(fed["x"])), ran(names, fed))[1])
    )
    inputs = np.random.default_rng(0).random((together + 1, 3, side, side), dtype=np.float32)
    assert np.array_equal(session.run(inputs), inputs.max(3, keepdims=True))
    assert sizes == [together, 1]
