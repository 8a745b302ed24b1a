"""ONNX Runtime sessions that say truthfully where they run, and stay quiet on stderr."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.validators.graph.batch import fixed_batch
from aurep.validators.graph.parts import parts_of
from aurep.validators.stages import stage

PROVIDERS = ("auto", "cpu", "cuda")
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_FATAL_ONLY = 4
REWRITTEN = 10_000  # nodes: what ONNX Runtime takes to load and rewrite more grows with their square
PART = 4_000  # nodes that are loaded at once, and not rewritten, of a graph of more than those
BATCH = 64  # images at most at a time where the batch is dynamic,
ELEMENTS = 2**20  # and elements of them: activations are many times as large, and a limit on memory counts them too


class CannotRunError(AurepError):
    """ONNX Runtime refuses the model: the file's fault, not the user's."""


class Session:
    """A model ready to run.

    Args:
        model: without external data.
        provider: `cuda` fails unless CUDA really runs every node; `auto` takes CUDA where it does, else the CPU.
        rows: images at a time where the batch is dynamic; None: as many as their size allows.

    Attributes:
        provider: what it runs on, `cpu` or `cuda`.
        rows: images at a time.

    Raises:
        AurepError: the provider is not to be had.
        CannotRunError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, provider: str = "auto", rows: int | None = None) -> None:
        if provider not in PROVIDERS:
            raise AurepError(f"provider {provider!r} is unknown; choose one of {', '.join(PROVIDERS)}.")
        with stage("while loading the graph"):
            self._session, self.provider = _open(model, provider)
        self.batch = fixed_batch(model)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs)
            raise CannotRunError(f"the model has {len(inputs)} inputs ({names}); only models of one input can be run.")
        self.input = inputs[0]
        image = prod(side for side in self.input.shape[1:] if isinstance(side, int))
        self.rows = self.batch or rows or min(BATCH, max(ELEMENTS // max(image, 1), 1))
        self.outputs = [entry.name for entry in self._session.get_outputs()]

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Logits (N, classes) for inputs (N, ...), batch by batch."""
        batches = ((np.atleast_1d(found[0]), used) for found, used in self._batches(inputs))
        return np.concatenate([logits if used == self.rows else logits[:used] for logits, used in batches])

    def run_all(self, inputs: NDArray[Any]) -> Iterator[dict[str, NDArray[Any]]]:
        """Every output by name, batch by batch."""
        for found, _ in self._batches(inputs):
            yield dict(zip(self.outputs, found, strict=True))

    def _batches(self, inputs: NDArray[Any]) -> Iterator[tuple[list[NDArray[Any]], int]]:
        for start in range(0, len(inputs), self.rows):
            chunk = inputs[start : start + self.rows]
            fed = chunk
            if self.batch and len(chunk) < self.batch:  # a fixed batch is filled up; the surplus rows are dropped
                fed = np.concatenate([chunk, np.repeat(chunk[-1:], self.batch - len(chunk), axis=0)])
            try:
                with stage("while running the graph"):
                    found = self._session.run(None, {self.input.name: fed})
                yield found, len(chunk)
            except Exception as error:  # its errors have no common class of their own
                _check_memory(error)
                raise CannotRunError(f"ONNX Runtime cannot run the model: {_first_line(error)}") from None


def _open(model: onnx.ModelProto, provider: str) -> tuple[Any, str]:
    if provider == "cpu":
        return _load(model, [_CPU]), "cpu"
    reason = "this build of ONNX Runtime has no CUDA provider"
    if _CUDA in ort.get_available_providers():
        try:
            if provider == "auto" and not _has_cuda():
                return _load(model, [_CPU]), "cpu"
            session = _load(model, [(_CUDA, {"use_tf32": "0"})], strict=True)
            if session.get_providers()[:1] == [_CUDA]:
                return session, "cuda"
            reason = f"the session fell back to {', '.join(session.get_providers())}"
        except CannotRunError as error:
            reason = str(error)
    if provider == "cuda":
        raise AurepError(
            f"--provider cuda was asked for, but the model does not run on CUDA: {reason} Install the CUDA and cuDNN "
            "versions that onnxruntime-gpu needs, or use --provider cpu."
        )
    return _load(model, [_CPU]), "cpu"


@cache
def _has_cuda() -> bool:
    """Whether a session really gets it: a one-node graph tells, before a large one is loaded for it in vain."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", [value], [result])
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bool(_load(probe, [_CUDA]).get_providers()[:1] == [_CUDA])


def _load(model: onnx.ModelProto, providers: list[Any], strict: bool = False) -> Any:
    if len(model.graph.node) > REWRITTEN:
        return _Chained(model, providers, strict)
    return _session(model, providers, strict)


def _session(model: onnx.ModelProto, providers: list[Any], strict: bool, rewrite: bool = True) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if not rewrite:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # as above; a hostile file reaches any of them
        _check_memory(error)
        raise CannotRunError(f"ONNX Runtime cannot load the model: {_first_line(error)}") from None


class _Chained:
    """What an `InferenceSession` is to a graph, for one of so many nodes that it is loaded in parts."""

    def __init__(self, model: onnx.ModelProto, providers: list[Any], strict: bool) -> None:
        self.given = {value.name for value in model.graph.input}
        self.results = [value.name for value in model.graph.output]
        self.parts = []
        kinds: dict[str, int] = {}
        for part in parts_of(model, PART):
            for value in part.graph.input:
                if value.name in kinds:
                    value.type.tensor_type.elem_type = kinds[value.name]
            session = _session(part, providers, strict, rewrite=False)
            kinds |= {entry.name: _element_type(entry.type) for entry in session.get_outputs()}
            self.parts.append(session)

    def get_providers(self) -> list[str]:
        """Those of the part that has fewest."""
        found: list[str] = min((part.get_providers() for part in self.parts), key=len)
        return found

    def get_inputs(self) -> list[Any]:
        entries = {entry.name: entry for part in self.parts for entry in part.get_inputs()}
        return [entry for name, entry in entries.items() if name in self.given]

    def get_outputs(self) -> list[Any]:
        entries = {entry.name: entry for part in self.parts for entry in part.get_outputs()}
        return [entries[name] for name in self.results]

    def run(self, _: None, feeds: Mapping[str, Any]) -> list[Any]:
        known = dict(feeds)
        for part in self.parts:
            found = part.run(None, {entry.name: known[entry.name] for entry in part.get_inputs()})
            known |= zip((entry.name for entry in part.get_outputs()), found, strict=True)
        return [known[name] for name in self.results]


def _element_type(text: str) -> int:
    """The `TensorProto.DataType` of what ONNX Runtime calls `tensor(float)`. Raises CannotRunError."""
    kinds: dict[str, int] = dict(onnx.TensorProto.DataType.items())
    name = text.removeprefix("tensor(").removesuffix(")").upper()
    if name not in kinds:
        raise CannotRunError(f"A tensor between two parts of the graph is of type {text}, which cannot be handed on.")
    return kinds[name]


def _check_memory(error: Exception) -> None:
    """Raises MemoryError where that is what `error` tells of: no fault of the graph, but too much of it."""
    if isinstance(error, MemoryError) or re.search(r"bad.?alloc|failed to allocate", str(error), re.IGNORECASE):
        raise MemoryError from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
