"""One of two HElayers parties: rank 0 serves the model, rank 1 owns the images and the only secret key (CKKS in SEAL).

The server plans the computation; the client makes keys to that plan and sends the public ones, which are large but
serve any number of images. Then per batch: an encrypted input goes one way, encrypted logits come back. The server's
weights stay plain on its own machine. Bytes are counted at the socket, keys apart.
"""

from __future__ import annotations

import socket
import struct
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import pyhelayers
from party_io import Party, run

_LENGTH = struct.Struct("!Q")


class Wire:
    """Messages with their length in front, over one connection; `sent` counts what this side wrote."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self.sent = connection, 0

    def send(self, message: bytes) -> None:
        self._connection.sendall(_LENGTH.pack(len(message)))
        self._connection.sendall(message)
        self.sent += _LENGTH.size + len(message)

    def receive(self) -> bytes:
        return bytes(self._exactly(_LENGTH.unpack(self._exactly(_LENGTH.size))[0]))

    def _exactly(self, size: int) -> bytearray:
        received = bytearray(size)
        view = memoryview(received)
        while view:
            count = self._connection.recv_into(view)
            if not count:
                raise ConnectionError("the other party closed the connection")
            view = view[count:]
        return received


def main(party: Party) -> dict[str, Any]:
    return _serve(party) if party.rank == 0 else _ask(party)


def _serve(party: Party) -> dict[str, Any]:
    listener = socket.create_server(("127.0.0.1", party.job["ports"][0]))
    party.phase("planning")
    plain = pyhelayers.NeuralNetPlain()
    plain.init_from_files(pyhelayers.PlainModelHyperParams(), [party.job["model"]])
    profile = _plan(plain, party.job["shape"][1])
    wire = Wire(listener.accept()[0])
    wire.send(profile.to_string().encode())
    party.phase("receiving the keys")
    context = pyhelayers.load_he_context(wire.receive())
    party.phase("encoding the model")
    network = pyhelayers.NeuralNet(context)
    network.encode(plain, profile)
    wire.send(network.create_model_io_encoder().save_to_buffer())
    before, runs = wire.sent, []
    for _ in range(party.job["shape"][0]):
        given, result = pyhelayers.EncryptedData(context), pyhelayers.EncryptedData(context)
        given.load_from_buffer(wire.receive())
        tick, sent = time.perf_counter(), wire.sent
        network.predict(result, given)
        seconds = time.perf_counter() - tick
        wire.send(result.save_to_buffer())
        runs.append({"seconds": seconds, "bytes_sent": wire.sent - sent, "rounds": 1})
    return {"runs": runs, "once": before, "packages": [f"pyhelayers {version('pyhelayers')}"]}


def _plan(plain: Any, batch: int) -> Any:
    wanted = pyhelayers.HeRunRequirements()
    wanted.set_he_context_options([pyhelayers.SealCkksContext()])
    wanted.set_model_encrypted(False)
    wanted.optimize_for_batch_size(batch)
    profile = pyhelayers.HeModel.compile(plain, wanted)
    if profile is None:
        raise RuntimeError("HElayers finds no parameters for this model: it is too deep for SEAL (see the log)")
    return profile


def _ask(party: Party) -> dict[str, Any]:
    wire = Wire(_connect(party.job["ports"][0], party.job["timeout"]))
    profile = pyhelayers.HeProfile()
    profile.from_string(wire.receive().decode())
    party.phase("making keys")
    context = pyhelayers.HeModel.create_context(profile)
    wire.send(context.save_to_buffer())
    encoder = pyhelayers.load_io_encoder(context, wire.receive())
    keys, outputs, runs = wire.sent, [], []
    batches = np.load(party.job["inputs"]).astype(np.float64)
    for index, rows in enumerate(batches):
        party.phase("inference")
        tick, sent = time.perf_counter(), wire.sent
        encrypted = pyhelayers.EncryptedData(context)
        encoder.encode_encrypt(encrypted, [rows])
        wire.send(encrypted.save_to_buffer())
        result = pyhelayers.EncryptedData(context)
        result.load_from_buffer(wire.receive())
        outputs.append(np.asarray(encoder.decrypt_decode_output(result)))
        runs.append({"seconds": time.perf_counter() - tick, "bytes_sent": wire.sent - sent, "rounds": 1})
        party.progress(index + 1, len(batches))
    np.save(party.job["outputs"], np.concatenate(outputs))
    return {"runs": runs, "once": keys, "packages": []}


def _connect(port: int, timeout: float) -> socket.socket:
    """The server may still be starting."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    run(main)
