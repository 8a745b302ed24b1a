"""Random damage to honest files ends in a verdict or in one sentence, and what passes is what was claimed.

Stated precisely, for a file made of an honest bundle by damage to its bytes or graph:

1. Reading and counting it returns, or raises an `AurepError` of one line; never anything else.
2. So does `aurep validate`, in its own process; its exit code is 0, 1 or 2, and nothing of Python's reaches the user.
3. If it passes, with its digest written anew as one who means harm would, it evaluates as many ReLU-like elements as
   the honest file, and ONNX Runtime computes the honest file's logits from it, on images that nobody chose.

Every case is made of its number, so that a failure can be made again: `case(honest, kind, number)`. AUREP_FUZZ=20 tries
twenty times as many. What was found once stands in `FOUND`.
"""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from aurep.cli import main
from aurep.errors import AurepError
from aurep.metadata import Metadata, graph_digest
from aurep.validators.checks.tolerances import PARITY_SCALED
from aurep.validators.files.reading import read
from aurep.validators.relu_count import count
from aurep.validators.session import Session
from aurep.validators.sites.recovery import pointwise, recover_sites
from tests.validators import graphs
from tests.validators.hostile import mutations

MORE = int(os.environ.get("AUREP_FUZZ", "1"))
COUNTED, VALIDATED = 30 * MORE, 5 * MORE  # numbers a kind and honest file
KINDS = ("bytes", "structure")
LIMITS = "memory=2GiB,wall=60"
# Found by this test, and mended since: (honest file, kind, number).
FOUND = [("gather", "structure", 290), ("pushed", "structure", 377)]  # images of more elements than numpy has indices
FOUND += [("gather", "bytes", 232), ("block", "bytes", 299)]  # a weight that moves logits by 2e-4 of their spread


def case(honest: str, kind: str, number: int) -> bytes:
    drawn = random.Random(f"{honest} {kind} {number}")
    model = mutations.HONEST[honest]()
    if kind == "bytes":
        return mutations.flipped(model.SerializeToString(), drawn)
    return mutations.mutated(model, drawn).SerializeToString()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("honest", mutations.HONEST)
def test_counting_returns_or_says_one_sentence(honest: str, kind: str, tmp_path: Path) -> None:
    for number in _numbers(honest, kind, COUNTED):
        file = tmp_path / "model.onnx"
        file.write_bytes(case(honest, kind, number))
        said = _said(file)
        assert said is None or "\n" not in said, number


def _numbers(honest: str, kind: str, most: int) -> list[int]:
    return [*(number for *which, number in FOUND if which == [honest, kind]), *range(most)]


def _said(file: Path) -> str | None:
    """The refusal to count `file`; whatever else is raised is a defect."""
    try:
        model = read(file).model
        assert count(model, pointwise(recover_sites(model))).total >= 0
    except AurepError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("honest", mutations.HONEST)
def test_what_passes_is_what_was_claimed(honest: str, kind: str, tmp_path: Path) -> None:
    folder = mutations.bundle(honest, tmp_path / "bundle")
    claims = json.loads((folder / "budget.json").read_text())
    model = onnx.load(folder / "model.onnx")
    honest_count = count(model, pointwise(recover_sites(model))).total
    images = np.random.default_rng(5).normal(size=(4, *graphs.SHAPE)).astype(np.float32)
    expected = Session(model, "cpu").run(images)
    for number in _numbers(honest, kind, VALIDATED):
        _put(folder, claims, case(honest, kind, number))
        report = tmp_path / "report.json"
        asked = ["validate", str(folder), "--json", str(report), "--limits", LIMITS]
        result = CliRunner().invoke(main, asked)
        assert result.exit_code in (0, 1, 2), (number, result.output)
        assert isinstance(result.exception, SystemExit | None), (number, result.exception)
        assert "Traceback" not in result.output, (number, result.output)
        if result.exit_code == 2:  # what a check quotes of a runtime stays as that said it
            assert not re.search(r"[A-Z][a-z]+Error\b", result.output), (number, result.output)
        if result.exit_code == 0:
            assert json.loads(report.read_text())["relu_count"] == honest_count, number
            logits = Session(onnx.load(folder / "model.onnx"), "cpu").run(images)
            spread = np.ptp(expected, axis=0) / 2
            assert (np.abs(logits - expected) <= PARITY_SCALED * spread).all(), number


def _put(folder: Path, claims: dict[str, object], data: bytes) -> None:
    """Write the bundle anew with `data` as its graph and the honest claims, the digest excepted."""
    try:
        model = onnx.ModelProto.FromString(data)
    except Exception:  # no file to put claims into: as it is
        (folder / "model.onnx").write_bytes(data)
        return
    metadata = Metadata.check({**claims, "graph_sha256": graph_digest(model)})
    graphs.save(graphs.stamp(model, metadata), folder / "model.onnx")
    (folder / "budget.json").write_text(metadata.to_json())
