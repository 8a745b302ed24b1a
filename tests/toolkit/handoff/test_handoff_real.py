"""Private inference for real, in each framework's own environment: logits against the eager model's, and exact bytes.

The networks are as small as they can be: what takes time is starting the frameworks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from aurep import AurepError, fit_polynomials, prepare, relu_sites, set_mask
from aurep.cli import main
from aurep.exporters import export
from aurep.frameworks import DRIVEN
from aurep.handoff import handoff
from aurep.handoff.environment import clean_environ
from aurep.handoff.session import PARTIES
from aurep.validators.inspection import inspect

# 16 fraction bits (SPU: 18): a rounding of 2^-16 at each of five layers, times weights whose sums stay below 4.
FIXED_POINT = 2e-3
# CKKS with 50 bits of scale: far below fp32's own rounding over the same layers.
CKKS = 1e-5
# CrypTen: Beaver's method opens each factor, 8 bytes from each of two parties; a square opens one; a comparison and the
# product with its result take nine rounds and 464 bytes.
OPENED, RELU = 16, 464
# SPU, SEMI2K, one party: bytes of a comparison.
LESS = 56


class Residual(nn.Module):
    """Two sites of 4 x 4 x 4 elements, a shortcut, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(2, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 3)
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        return self.head(self.second(self.body(x) + x).mean((2, 3)))


def bundle(folder: Path, target: str, kept: int, batch: int = 1) -> Path:
    """`kept` ReLUs at each of two sites of 64 elements; 4 samples."""
    torch.manual_seed(1)
    images = torch.randn(4, 2, 4, 4)
    model = prepare(Residual().eval(), images[:1])
    fit_polynomials(model, [images])
    for site in relu_sites(model):
        mask = torch.zeros(site.elements)
        mask[torch.randperm(site.elements)[:kept]] = 1
        set_mask(model, site.name, mask.reshape(site.shape))
    export(model, images[:1], folder, target, batch=batch, samples=(images.numpy(), np.zeros(4, dtype=np.int64)))
    return folder


def shallow(folder: Path) -> Path:
    """One convolution, one polynomial, one linear layer: what HElayers does in a second."""
    torch.manual_seed(0)
    images = torch.randn(2, 1, 6, 6)
    net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).eval()
    model = prepare(net, images[:1])
    fit_polynomials(model, [images])
    set_mask(model, "1", torch.zeros(2, 3, 3))
    samples = (images.numpy(), np.zeros(2, dtype=np.int64))
    export(model, images[:1], folder, "helayers", samples=samples)
    return folder


@pytest.mark.parametrize("kept", [64, 7, 0])
def test_crypten_costs_what_its_protocols_cost(kept: int, python_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "crypten", kept)
    found = handoff(folder, "crypten", samples=2, python=python_of("crypten"))
    assert found.samples == 2
    assert found.logits.max_error < FIXED_POINT
    assert found.logits.top1_agreement == 1
    inputs, weights = 32 + 64 + 4, 4 * 2 * 9 + 4 * 4 * 9 + 4 * 3
    squares = 128 if kept < 64 else 0
    assert found.traffic.opening == OPENED * weights
    assert found.traffic.activations == OPENED * (inputs + squares) + RELU * 2 * kept
    assert found.traffic.rounds == 3 + 2 * bool(squares) + 9 * 2 * bool(kept)
    estimate = inspect(folder).estimates[0]
    assert (estimate["bytes"], estimate["rounds"]) == (found.traffic.total, found.traffic.rounds)
    assert estimate["weight_opening"] == found.traffic.opening


def test_spu_compares_only_what_is_kept(python_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "spu", 7)
    found = handoff(folder, "spu", samples=2, python=python_of("spu"))
    assert found.logits.max_error < FIXED_POINT
    less = next(entry for entry in found.nodes if entry["op"] == "pphlo.less")
    assert less["bytes_sent"] == LESS * 2 * 7
    assert found.traffic.sent[0] == found.traffic.sent[1]
    estimate = next(entry for entry in inspect(folder).estimates if entry["protocol"] == "SEMI2K")
    assert estimate["bytes"] == found.traffic.total
    assert found.traffic.opening == OPENED * (4 * 2 * 9 + 4 * 4 * 9 + 4 * 3)


def test_spu_with_three_parties_and_a_batch(python_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "spu", 7, batch=2)
    found = handoff(folder, "spu", protocol="aby3", samples=4, python=python_of("spu"))
    assert (found.protocol, len(found.traffic.sent), found.batch, found.samples) == ("ABY3", 3, 2, 4)
    assert found.logits.max_error < FIXED_POINT
    assert found.traffic.weight_opening is None
    with pytest.raises(AurepError, match="takes batches of 2 images, but 1 samples"):
        handoff(folder, "spu", samples=1, python=python_of("spu"))


@pytest.mark.parametrize("target", ["onnx", "onnxruntime", "mask", "crypten", "spu", "helayers"])
def test_the_documentation_s_snippet_runs(target: str, python_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As a new user would: in the bundle's folder, with the framework's Python."""
    page = (Path(__file__).parents[3] / "docs" / "targets" / f"{target}.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    folder = shallow(tmp_path / "b") if target == "helayers" else bundle(tmp_path / "b", target, 7)
    (folder / "snippet.py").write_text(snippet)
    (folder / "onnx_to_jax.py").write_text((PARTIES / "onnx_to_jax.py").read_text())
    python = python_of(target) if target in DRIVEN else Path(sys.executable)
    settings = {**clean_environ(), "GLOO_SOCKET_IFNAME": "lo"} if target == "crypten" else clean_environ()
    run = subprocess.run(
        [python, "snippet.py"], cwd=folder, env=settings, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split()[-1]) < FIXED_POINT


def test_helayers_through_the_command(python_of: Callable[[str], Path], tmp_path: Path) -> None:
    shallow(tmp_path / "b")
    arguments = ["handoff", str(tmp_path / "b"), "--to", "helayers", "--samples", "1", "--json", "-"]
    result = CliRunner().invoke(main, [*arguments, "--python", str(python_of("helayers"))])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["logits"]["max_error"] < CKKS
    assert all(sent > 0 for sent in found["traffic"]["sent"])
    assert "top-1 agreement 100.0%" in result.stderr
    assert "derived for a WAN of 100 Mbit/s" in result.stderr


def test_a_bundle_for_another_target_is_refused(python_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", "onnx", 7, batch=1)
    with pytest.raises(AurepError, match="was exported for target onnx; export the run with `--target crypten`"):
        handoff(folder, "crypten", python=python_of("crypten"))
    with pytest.raises(AurepError, match="give the bundle folder"):
        handoff(folder / "model.onnx", "crypten", python=python_of("crypten"))
