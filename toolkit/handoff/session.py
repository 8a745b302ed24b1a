"""`handoff`: private inference on a bundle's samples, with real parties, and what it cost."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from aurep.errors import AurepError
from aurep.frameworks import Framework, Protocol, find_driven, find_faults
from aurep.handoff.environment import find_python
from aurep.handoff.foresight import foresee
from aurep.handoff.measurement import Measurement, Predicted, compare, traffic_of
from aurep.handoff.processes import Event, Job, run_parties
from aurep.operators import LINEAR
from aurep.validators.files.reading import Artefact, read
from aurep.validators.files.samples import read_samples

PARTIES = Path(__file__).parent / "parties"
_RING_BYTES = 8


@dataclass(frozen=True)
class _Material:
    """What the parties get: the model, and the samples as whole batches (inferences, batch, ...)."""

    artefact: Artefact
    inputs: NDArray[np.float32]
    logits: NDArray[np.float32]

    @property
    def images(self) -> NDArray[np.float32]:
        """(inferences * batch, ...)"""
        return self.inputs.reshape(-1, *self.inputs.shape[2:])


def handoff(
    bundle: str | Path,
    to: str,
    *,
    samples: int = 4,
    protocol: str | None = None,
    python: str | Path | None = None,
    timeout: float = 600,
    heard: Callable[[int, Event], None] = lambda rank, event: None,
    warned: Callable[[str], None] = lambda warning: None,
) -> Measurement:
    """Run the bundle encrypted, with one process a party over loopback, and measure.

    Args:
        bundle: a bundle folder that was exported for the framework.
        to: `crypten`, `spu` or `helayers`.
        samples: images of `samples.npz` to infer; a last batch that they do not fill is left out.
        protocol: the framework's own name for it, such as `ABY3`; default: the framework's first.
        python: an interpreter that has the framework; default: that of `aurep handoff --setup`.
        timeout: seconds until the run is given up.
        heard: gets what the parties report, with their ranks.
        warned: gets, before the parties start, a sentence for each thing that will go wrong in fixed point.

    Raises:
        AurepError: wrong usage, a graph that the framework cannot take, or a party that failed, died or hung.
    """
    framework = find_driven(to)
    chosen = framework.protocol(protocol)
    interpreter = find_python(framework, None if python is None else Path(python))
    material = _material(Path(bundle), framework, samples)
    predicted = foresee(material.artefact, material.images, framework, warned)
    roles = chosen.roles
    with tempfile.TemporaryDirectory(prefix="aurep-handoff-") as name:
        folder = Path(name)
        jobs = _jobs(material, chosen, folder, timeout)
        command = [str(interpreter), str(PARTIES / f"{framework.name}_party.py")]
        results = run_parties(command, roles, jobs, folder, timeout, heard)
        logs = [(folder / f"party{rank}.log").read_text(errors="replace") for rank in range(len(roles))]
        found = np.load(folder / "logits.npy")
    return _measurement(material, predicted, framework, chosen, interpreter, results, logs, found)


def _material(bundle: Path, framework: Framework, samples: int) -> _Material:
    artefact = read(bundle)
    if artefact.bundle is None:
        raise AurepError(f"{bundle} is a file; give the bundle folder, whose samples the parties infer.")
    target = artefact.metadata.target if artefact.metadata is not None else None
    if target != framework.name:
        raise AurepError(
            f"{bundle} was exported for target {target}; export the run with `--target {framework.name}` for this."
        )
    found = find_faults(artefact.model, framework.name)
    if found:
        raise AurepError(f"{framework.name} cannot take {artefact.file}: {found[0]}.")
    stored = read_samples(artefact.bundle)
    if stored is None:
        raise AurepError(f"{bundle} holds no samples.npz; export it again.")
    batch = artefact.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    runs = min(samples, len(stored.inputs)) // batch
    if runs < 1:
        raise AurepError(
            f"the file takes batches of {batch} images, but {min(samples, len(stored.inputs))} samples were to be "
            f"inferred; give --samples {batch}, or export with a smaller --batch."
        )
    rows = runs * batch
    inputs = stored.inputs[:rows].reshape(runs, batch, *stored.inputs.shape[1:])
    return _Material(artefact, inputs, stored.logits[:rows])


def _jobs(material: _Material, protocol: Protocol, folder: Path, timeout: float) -> list[Job]:
    """One job a party. Only rank 0 gets the weights, only rank 1 the images."""
    count = len(protocol.roles)
    model, skeleton, inputs = folder / "model.onnx", folder / "skeleton.onnx", folder / "inputs.npy"
    model.write_bytes(material.artefact.model.SerializeToString())
    skeleton.write_bytes(_without_weights(material.artefact.model).SerializeToString())
    np.save(inputs, material.inputs)
    shared = {
        "parties": count,
        "protocol": protocol.name,
        "shape": list(material.inputs.shape),
        "rendezvous": str(folder / "rendezvous"),
        "ports": _free_ports(count),
        "threads": max(1, (os.cpu_count() or 1) // count),
        "timeout": timeout,
    }
    jobs = [{**shared, "model": str(skeleton), "inputs": None, "outputs": None} for _ in range(count)]
    jobs[0]["model"] = str(model)
    jobs[1].update(inputs=str(inputs), outputs=str(folder / "logits.npy"))
    return jobs


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, the factors and biases of its linear layers zero: what parties other than the owner may know."""
    empty = onnx.ModelProto()
    empty.CopyFrom(model)
    secret = set(_weights(model))
    for tensor in empty.graph.initializer:
        if tensor.name in secret:
            zeros = np.zeros(tuple(tensor.dims), dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    return empty


def _weights(model: onnx.ModelProto) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    read_by_linear = (name for node in model.graph.node if node.op_type in LINEAR for name in node.input)
    return [name for name in dict.fromkeys(read_by_linear) if name in stored]


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free now; all are held until the last is found, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def _measurement(
    material: _Material,
    predicted: Predicted | None,
    framework: Framework,
    protocol: Protocol,
    python: Path,
    results: list[Event],
    logs: list[str],
    found: NDArray[Any],
) -> Measurement:
    nodes = results[0].get("nodes", [])
    parties = framework.require_parties()
    if parties.read_log is not None:
        logged = [parties.read_log(log) for log in logs]
        nodes = next((operators for _, operators in logged if operators), [])
        _add_traffic(framework, results, [moved for moved, _ in logged])
        if protocol.opens_weights:
            _add_opening(material.artefact.model, results)
    runs = [result["runs"] for result in results]
    seconds = [max(party[i]["seconds"] for party in runs) for i in range(len(runs[0]))]
    once = tuple(int(result["once"]) for result in results) if "once" in results[0] else None
    return Measurement(
        bundle=str(material.artefact.bundle),
        framework=framework.name,
        protocol=protocol.name,
        python=str(python),
        packages=tuple(results[0]["packages"]),
        samples=len(material.logits),
        batch=material.inputs.shape[1],
        roles=protocol.roles,
        rounds_are=parties.rounds,
        logits=compare(found, material.logits),
        predicted=predicted,
        traffic=traffic_of(runs),
        once=once,
        seconds=statistics.median(seconds),
        total_seconds=sum(seconds),
        nodes=tuple(nodes),
    )


def _add_traffic(framework: Framework, results: list[Event], logged: list[list[dict[str, Any]]]) -> None:
    """Put each party's logged bytes and rounds beside its seconds."""
    for result, entries in zip(results, logged, strict=True):
        if len(entries) != len(result["runs"]):
            raise AurepError(
                f"{framework.name} logged {len(entries)} runs where {len(result['runs'])} were made; use the version "
                f"that `aurep handoff --setup {framework.name}` installs."
            )
        for run, entry in zip(result["runs"], entries, strict=True):
            run.update(entry)


def _add_opening(model: onnx.ModelProto, results: list[Event]) -> None:
    """Products by Beaver triples: each party sends its share of every masked factor of a linear layer once, so that
    part is derived from the weights' sizes."""
    for run in (run for result in results for run in result["runs"]):
        run["weight_opening"] = _RING_BYTES * _opened_elements(model)


def _opened_elements(model: onnx.ModelProto) -> int:
    """Elements of the secret factors; biases are added without a word."""
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    factors = (node.input[1] for node in model.graph.node if node.op_type in LINEAR)
    return sum(sizes.get(name, 0) for name in factors)
