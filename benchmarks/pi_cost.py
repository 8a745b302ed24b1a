"""Fits the constants of the cost estimate to measured bytes, and says by how much it misses.

    python benchmarks/pi_cost.py [--crypten PYTHON] [--spu PYTHON] [--work runs/pi-cost]

Small random networks with random masks run through each protocol. Half of them are fitted by non-negative least squares
(relative errors), the other half is predicted. Writes benchmarks/results/pi_cost.{json,md}; copy the constants of SPU
from there into `toolkit/frameworks/spu.py`. CHEETAH is not fitted: its ciphertexts are packed, so that bytes grow in
steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import RESULTS, markdown_table, provenance
from scipy.optimize import nnls
from torch import Tensor, nn

PROTOCOLS = (("crypten", "Beaver"), ("spu", "SEMI2K"), ("spu", "ABY3"))
KEYS = {
    "Beaver": ("compared", "squares", "inputs", "weights"),
    "SEMI2K": ("compared", "products", "scalings", "patches", "weights", "outputs"),
    "ABY3": ("compared", "products", "scalings", "outputs"),
}
NETWORKS = 12


class Network(nn.Module):
    """Two or three convolutions with a shortcut; sizes drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        width, self.size = int(draw.integers(2, 12)), int(draw.choice([6, 8, 12, 16]))
        self.stem = nn.Conv2d(3, width, int(draw.choice([1, 3, 5])), padding="same")
        self.block = nn.Conv2d(width, width, 3, 1, 1)
        self.down = nn.Conv2d(width, 2 * width, int(draw.choice([2, 4])), 2)
        self.head = nn.Linear(2 * width, 10)
        self.relu = nn.ReLU()
        self.kept, self.degree = float(draw.choice([0, 0.05, 0.3, 0.6, 1])), int(draw.choice([1, 2, 2]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.block(x) + x)
        return self.head(self.relu(self.down(x)).mean((2, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crypten", type=Path)
    parser.add_argument("--spu", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/pi-cost"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [measure(seed, *protocol, arguments) for protocol in PROTOCOLS for seed in range(NETWORKS)]
    report([fit(name, [run for run in runs if run["protocol"] == name]) for _, name in PROTOCOLS])


def measure(seed: int, framework: str, protocol: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from aurep.handoff import handoff
    from aurep.validators.inspection import inspect

    file = arguments.work / f"{protocol}-{seed}.json"
    if not file.exists():
        bundle = export_network(seed, framework, arguments.work / f"{framework}-{seed}")
        found = handoff(bundle, framework, protocol=protocol, samples=1, python=getattr(arguments, framework))
        row = {"protocol": protocol, "seed": seed, "bytes": found.traffic.total, "rounds": found.traffic.rounds}
        file.write_text(json.dumps({**row, "counts": inspect(bundle).counts, "packages": found.packages}))
        print(file.read_text(), flush=True)
    found_row: dict[str, Any] = json.loads(file.read_text())
    return found_row


def export_network(seed: int, framework: str, folder: Path) -> Path:
    from aurep import fit_polynomials, prepare, relu_sites, set_mask
    from aurep.exporters import export

    torch.manual_seed(seed)
    net = Network(seed).eval()
    images = torch.randn(4, 3, net.size, net.size)
    model = prepare(net, images[:1], degree=net.degree)
    fit_polynomials(model, [images])
    for site in relu_sites(model):
        set_mask(model, site.name, torch.rand(site.shape) < net.kept)
    export(model, images[:1], folder, framework, samples=(images[:1].numpy(), np.zeros(1, dtype=np.int64)))
    return folder


def fit(protocol: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    keys = KEYS[protocol]
    counts = np.array([[run["counts"].get(key, 0) for key in keys] for run in runs], dtype=np.float64)
    measured = np.array([run["bytes"] for run in runs], dtype=np.float64)
    half = len(runs) // 2 + 1
    relative = counts[:half] / measured[:half, None]
    scale = np.maximum(relative.max(0), 1e-12)
    constants = nnls(relative / scale, np.ones(half))[0] / scale
    off = counts @ constants / measured - 1
    return {
        "protocol": protocol,
        "packages": runs[0]["packages"],
        "bytes_per": {key: round(float(value), 2) for key, value in zip(keys, constants, strict=True)},
        "largest_error_fitted": float(np.abs(off[:half]).max()),
        "largest_error_predicted": float(np.abs(off[half:]).max()),
        "runs": runs,
    }


def report(fits: list[dict[str, Any]]) -> None:
    facts = {**provenance(), "networks": NETWORKS, "fits": fits}
    (RESULTS / "pi_cost.json").write_text(json.dumps(facts, indent=2) + "\n")
    rows = [
        (
            f"{one['protocol']} ({', '.join(one['packages'])})",
            ", ".join(f"{key} {value:g}" for key, value in one["bytes_per"].items()),
            f"{one['largest_error_fitted']:.2%}",
            f"{one['largest_error_predicted']:.2%}",
        )
        for one in fits
    ]
    text = "# Bytes per unit of work, fitted to measured traffic\n\n"
    text += (
        f"{facts['hardware']}, {facts['versions']}, {facts['date']}. {NETWORKS} random networks a protocol, half of\n"
    )
    text += "them fitted, the others predicted. `python benchmarks/pi_cost.py`.\n\n"
    text += markdown_table(("protocol", "bytes on the wire per unit", "largest error, fitted", "predicted"), rows)
    (RESULTS / "pi_cost.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
