"""Where a model runs is said truthfully."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from aurep.errors import AurepError
from aurep.validators.validation import validate  # in this process, where things can be put in its way

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
