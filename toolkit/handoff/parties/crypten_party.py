"""One of two CrypTen parties: rank 0 owns the model, rank 1 the images; both compute on shares.

Multiplication triples come from CrypTen's trusted first party, so that their (offline) cost is not in the figures.
Bytes are CrypTen's own counter. In a reveal each party sends as much as it receives, so a party sends half of what its
counter says.

Opening weights: a product of the secret x and w by Beaver's method opens x - a and w - b. The second opening depends
on the model alone, whatever the activations cost, and is told apart: it is the operand that shares its memory with a
parameter.
"""

from __future__ import annotations

import io
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from party_io import Party, run

_RING_BYTES = 8  # an element of a share: int64


def main(party: Party) -> dict[str, Any]:
    party.phase("starting CrypTen")
    job = party.job
    torch.set_num_threads(job["threads"])
    crypten = _import_crypten(job)
    from crypten.config import cfg

    cfg.communicator.verbose = True  # counts bytes
    crypten.init()
    party.phase("sharing the model")
    before = _counters(crypten)
    model = crypten.nn.from_onnx(io.BytesIO(Path(job["model"]).read_bytes()))
    model.encrypt(src=0)
    shared = _since(crypten, before)
    model.eval()
    meter = Meter(crypten, model, party)
    batches = np.load(job["inputs"]) if job["inputs"] else np.zeros(job["shape"], dtype=np.float32)
    outputs: list[np.ndarray] = []
    runs = []
    with crypten.no_grad():
        for index, rows in enumerate(batches):
            party.phase("inference")
            meter.start(index, len(batches))
            runs.append(_infer(crypten, model, rows, meter, outputs))
    if party.rank == 1:
        np.save(job["outputs"], np.concatenate(outputs))
    packages = [f"crypten {crypten.__version__}", f"torch {torch.__version__}"]
    return {"once": shared["bytes_sent"], "runs": runs, "nodes": meter.nodes, "packages": packages}


def _infer(crypten: Any, model: Any, rows: np.ndarray, meter: Meter, outputs: list[np.ndarray]) -> dict[str, Any]:
    """One inference; its logits are opened to party 1, the owner of the images."""
    before = _counters(crypten)
    inputs = crypten.cryptensor(torch.from_numpy(rows), src=1)
    entered = _since(crypten, before)
    before, meter.opened = _counters(crypten), 0
    crypten.comm.get().barrier()
    tick = time.perf_counter()
    logits = model(inputs)
    seconds = time.perf_counter() - tick
    measured = _since(crypten, before)
    measured["rounds"] -= 1  # the barrier
    before = _counters(crypten)
    plain = logits.get_plain_text(dst=1)
    if plain is not None:
        outputs.append(plain.numpy())
    return {
        **measured,
        "seconds": seconds,
        "weight_opening": meter.opened * _RING_BYTES,
        "entering": entered,
        "leaving": _since(crypten, before),
    }


class Meter:
    """Counters around every node of the graph, and around Beaver products of which a factor is a parameter."""

    def __init__(self, crypten: Any, model: Any, party: Party) -> None:
        self.opened = self.done = self.index = self.inferences = 0
        self.nodes: list[dict[str, Any]] = []
        self.crypten, self.party = crypten, party
        self._count_openings({_storage(tensor) for tensor in model.parameters()})
        kinds = {node.output[0]: node for node in onnx.load(party.job["model"]).graph.node}
        for name, node in kinds.items():
            model._modules[name] = _Measured(model._modules[name], node, self)
        self.of = len(kinds)

    def start(self, index: int, inferences: int) -> None:
        self.done, self.index, self.inferences = 0, index, inferences

    def _count_openings(self, weights: set[int]) -> None:
        from crypten.mpc.primitives import beaver

        protocol = beaver.__dict__["__beaver_protocol"]

        def counting(op: str, x: Any, y: Any, *args: Any, **kwargs: Any) -> Any:
            self.opened += sum(factor.nelement() for factor in (x, y) if _storage(factor) in weights)
            return protocol(op, x, y, *args, **kwargs)

        beaver.__dict__["__beaver_protocol"] = counting


class _Measured:
    """Stands in for a module of the graph: runs it, and books what it sent."""

    def __init__(self, module: Any, node: onnx.NodeProto, meter: Meter) -> None:
        self._module, self._node, self._meter = module, node, meter
        self._output_names = [node.output[0]]

    def __call__(self, given: Any) -> Any:
        meter = self._meter
        before, opened = _counters(meter.crypten), meter.opened
        result = self._module(given)
        spent = _since(meter.crypten, before)
        if meter.index == 0 and spent["rounds"]:  # every inference costs the same
            opening = (meter.opened - opened) * _RING_BYTES
            meter.nodes.append({"name": self._node.name, "op": self._node.op_type, **spent, "weight_opening": opening})
        meter.done += 1
        meter.party.progress(meter.index + meter.done / meter.of, meter.inferences)
        return result


def _storage(tensor: Any) -> int:
    """Where the shares lie. Views, such as a transposed weight, lie where their base does."""
    share = getattr(tensor, "_tensor", tensor)
    share = getattr(share, "_tensor", share)
    return share.untyped_storage().data_ptr()


def _counters(crypten: Any) -> tuple[float, int]:
    stats = crypten.comm.get().get_communication_stats()
    return stats["bytes"], stats["rounds"]


def _since(crypten: Any, before: tuple[float, int]) -> dict[str, Any]:
    moved, rounds = _counters(crypten)
    return {"bytes_sent": (moved - before[0]) / 2, "rounds": rounds - before[1]}


def _import_crypten(job: dict[str, Any]) -> Any:
    """CrypTen 0.4.1 asks torch and onnx for names that newer releases dropped; none of them is used to load a file."""
    stub: Any = types.ModuleType("torch.onnx._internal.registration")
    stub.registry = None
    sys.modules.setdefault("torch.onnx._internal.registration", stub)
    torch_onnx: Any = torch.onnx
    any_onnx: Any = onnx
    if not hasattr(torch_onnx, "OperatorExportTypes"):
        torch_onnx.OperatorExportTypes = types.SimpleNamespace(ONNX=0)
    if not hasattr(any_onnx, "load_model_from_string"):
        any_onnx.load_model_from_string = onnx.load_from_string
    os.environ.update(
        DISTRIBUTED_BACKEND="gloo",
        RENDEZVOUS=Path(job["rendezvous"]).as_uri(),
        WORLD_SIZE=str(job["parties"]),
        RANK=str(job["rank"]),
        GLOO_SOCKET_IFNAME="lo" if sys.platform == "linux" else "lo0",
    )
    import crypten

    return crypten


if __name__ == "__main__":
    run(main)
