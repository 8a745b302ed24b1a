"""One party of SecretFlow SPU: rank 0 owns the model, rank 1 the images; with ABY3 a third one computes along.

Weights and images are secret shares; masks, indices and coefficients are public. The owners make the shares and send
them over the link. Every party compiles the same graph (the others from a copy with zero weights).

Bytes and messages of the computation are the link's own, as SPU logs them after each run ("Link details"), and per
operator, as its profile lists them; whoever started this party reads both from its log.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

import jax
import numpy as np
import onnx
import spu
import spu.utils.frontend as frontend
from onnx import numpy_helper
from onnx_to_jax import evaluate, secret_names
from party_io import Party, run
from spu import libspu


def main(party: Party) -> dict[str, Any]:
    party.phase("starting SPU")
    config = _config(party.job)
    link = _link(party.job)
    party.phase("compiling")
    model = onnx.load(party.job["model"])
    program = _compile(model, party.job["shape"])
    runtime, io = spu.Runtime(link, config), spu.Io(party.job["parties"], config)
    party.phase("sharing the model")
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name in secret_names(model.graph):
        runtime.set_var(name, _share(link, io, weights[name], owner=0))
    shape = party.job["shape"]
    batches = np.load(party.job["inputs"]) if party.job["inputs"] else np.zeros(shape, np.float32)
    outputs, seconds = [], []
    for index, rows in enumerate(batches):
        party.phase("inference")
        runtime.set_var("input", _share(link, io, np.ascontiguousarray(rows, np.float32), owner=1))
        link.barrier()
        tick = time.perf_counter()
        runtime.run(program)
        seconds.append(time.perf_counter() - tick)
        outputs += _open(link, io, runtime.get_var("logits"))
        party.progress(index + 1, len(batches))
    if party.rank == 1:
        np.save(party.job["outputs"], np.concatenate(outputs))
    link.stop_link()
    packages = [f"spu {spu.__version__}", f"jax {jax.__version__}"]
    return {"runs": [{"seconds": one} for one in seconds], "packages": packages}


def _config(job: dict[str, Any]) -> Any:
    config = libspu.RuntimeConfig(protocol=spu.parse_protocol_kind(job["protocol"]), field=spu.FieldType.FM64)
    config.enable_pphlo_profile = True
    config.max_concurrency = job["threads"]
    return config


def _link(job: dict[str, Any]) -> Any:
    description = libspu.link.Desc()
    description.recv_timeout_ms = int(1000 * job["timeout"])
    for rank, port in enumerate(job["ports"]):
        description.add_party(f"party{rank}", f"127.0.0.1:{port}")
    return libspu.link.create_brpc(description, job["rank"])


def _compile(model: onnx.ModelProto, shape: list[int]) -> Any:
    """SPU's program for the graph; its inputs are the secret weights, by name, and `input`."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    secret = secret_names(model.graph)
    public = {name: value for name, value in stored.items() if name not in secret}
    source = model.graph.input[0].name

    def network(images: Any, *weights: Any) -> Any:
        return evaluate(model.graph, {**public, **dict(zip(secret, weights, strict=True)), source: images})

    example = [np.zeros(shape[1:], np.float32), *(stored[name] for name in secret)]
    visible = [libspu.Visibility.VIS_SECRET] * len(example)
    program, _ = frontend.compile(
        frontend.Kind.JAX, network, example, {}, ["input", *secret], visible, lambda flat: ["logits"]
    )
    return program


def _share(link: Any, io: Any, value: np.ndarray, owner: int) -> Any:
    """This party's share of `value`, which only the owner knows."""
    if link.rank != owner:
        return pickle.loads(link.recv(owner))
    shares = io.make_shares(value, libspu.Visibility.VIS_SECRET)
    for rank, share in enumerate(shares):
        if rank != owner:
            link.send(rank, pickle.dumps(share))
    return shares[owner]


def _open(link: Any, io: Any, share: Any) -> list[np.ndarray]:
    """The value, for party 1 alone."""
    if link.rank != 1:
        link.send(1, pickle.dumps(share))
        return []
    shares = [share if rank == 1 else pickle.loads(link.recv(rank)) for rank in range(link.world_size)]
    return [io.reconstruct(shares)]


if __name__ == "__main__":
    run(main)
