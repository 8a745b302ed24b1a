"""The bundle folder, its metadata, and what must never happen to folders and to the user's terminal."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aurep import AurepError, prepare, relu_sites, validate
from aurep.activation import HybridActivation
from aurep.exporters import export, parity
from aurep.metadata import (
    InputClaim,
    Metadata,
    Origin,
    TrainingClaim,
    coefficient_digest,
    graph_digest,
    json_schema,
    mask_digest,
)
from aurep.surgery import hybrid_sites
from tests.exporters.exporting import NET, assert_scaled, example, run, small_net

CLAIM = InputClaim(shape=(2, 6, 6), mean=(0.5, 0.4), std=(0.2, 0.3))
TRAINING = TrainingClaim(
    method="autorep", model="tiny", data="noise", seed=3, test_accuracy=91.5, teacher_test_accuracy=93
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_net()


@pytest.fixture(scope="module")
def bundle(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    x = example(5, seed=4).numpy()
    written = export(
        model,
        example(1),
        folder,
        origin=Origin(60, CLAIM, ("a", "b", "c"), TRAINING, "ab" * 32),
        samples=(x, np.array([0, 1, 2, 0, 1])),
    )
    assert written == folder / "model.onnx"
    return folder


def claims(file: Path) -> Metadata:
    return Metadata.from_props({entry.key: entry.value for entry in onnx.load(file).metadata_props})


def test_bundle_holds_exactly_its_files(bundle: Path) -> None:
    assert sorted(os.listdir(bundle)) == ["README.md", "budget.json", "model.onnx", "samples.npz"]
    assert os.listdir(bundle.parent) == ["bundle"]
    assert bundle.stat().st_mode & 0o077 == 0o777 & ~_umask() & 0o077


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_metadata_is_the_same_in_both_places_and_fits_the_schema(bundle: Path) -> None:
    budget = json.loads((bundle / "budget.json").read_text())
    jsonschema.validate(budget, json.loads(json_schema()))
    assert Metadata.check(budget) == claims(bundle / "model.onnx")


def test_metadata_says_what_was_given(bundle: Path) -> None:
    found = claims(bundle / "model.onnx")
    assert (found.relu_budget, found.input, found.training) == (60, CLAIM, TRAINING)
    assert (found.classes, found.checkpoint, found.target) == (("a", "b", "c"), "ab" * 32, "onnx")


def test_sites_are_those_of_the_model(bundle: Path, model: nn.Module) -> None:
    found = claims(bundle / "model.onnx")
    modules = {m.site: m for m in model.modules() if isinstance(m, HybridActivation)}
    expected = [(s.name, s.shape, s.kept, s.degree) for s in relu_sites(model)]
    assert [(s.name, s.shape, s.kept, s.degree) for s in found.sites] == expected
    for site in found.sites:
        module = modules[site.name]
        assert module.coefficients is not None
        assert site.mask_sha256 == mask_digest(module.mask.numpy())
        assert site.coefficients_sha256 == coefficient_digest(module.coefficients.detach().numpy())
    assert found.relu_count == sum(s.kept for s in relu_sites(model))
    assert found.relu_total == sum(s.elements for s in relu_sites(model))
    assert found.comparisons == {"Relu": found.relu_count}


def test_graph_digest_covers_the_saved_graph(bundle: Path) -> None:
    saved = onnx.load(bundle / "model.onnx")
    assert graph_digest(saved) == claims(bundle / "model.onnx").graph_sha256
    assert (saved.producer_name, saved.ir_version) == ("aurep", 8)


def test_nothing_of_the_exporting_machine_is_in_the_file(bundle: Path) -> None:
    saved = onnx.load(bundle / "model.onnx")
    assert all(not node.metadata_props and not node.doc_string for node in saved.graph.node)
    data = (bundle / "model.onnx").read_bytes()
    assert b"site-packages" not in data
    assert os.fsencode(Path(__file__).parent) not in data


def test_samples_hold_the_logits_of_the_eager_model(bundle: Path, model: nn.Module) -> None:
    with np.load(bundle / "samples.npz", allow_pickle=False) as samples:
        inputs, logits, labels = samples["inputs"], samples["logits"], samples["labels"]
    with torch.no_grad():
        assert np.array_equal(logits, model(torch.from_numpy(inputs)).numpy())
    assert_scaled(run(bundle / "model.onnx", inputs), logits, NET)
    assert labels.tolist() == [0, 1, 2, 0, 1]


def test_card_tells_accuracy_counts_and_how_to_load(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    found = claims(bundle / "model.onnx")
    assert card.startswith("# tiny on noise\n")
    assert f"ReLU count: {found.relu_count:,} of {found.relu_total:,} elements" in card
    assert "test accuracy: 91.50 % (all-ReLU teacher 93.00 %)" in card
    assert "pixels scaled to 0..1, minus (0.5, 0.4), over (0.2, 0.3)" in card
    for site in found.sites:
        assert f"| {site.name} |" in card


def test_the_python_of_the_card_runs(bundle: Path) -> None:
    code = (bundle / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code += "\nprint(float(abs(logits - samples['logits']).max()) < 1e-3)"
    done = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_an_existing_bundle_is_replaced(model: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    first = export(model, example(), folder, origin=Origin(70)).read_bytes()
    second = export(model, example(), folder, origin=Origin(71)).read_bytes()
    assert first != second
    assert os.listdir(tmp_path) == ["b"]


def test_an_empty_folder_is_filled(model: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    assert export(model, example(), folder).exists()


def foreign_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")


def foreign_readme(folder: Path) -> None:
    folder.mkdir()
    (folder / "README.md").write_text("another project")


def plain_file(folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize(
    ("make", "words"),
    [(foreign_file, "'thesis.txt', which is no part"), (foreign_readme, "not a bundle"), (plain_file, "is no folder")],
)
def test_what_is_not_ours_is_never_destroyed(
    make: Callable[[Path], None], words: str, model: nn.Module, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    make(folder)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(AurepError, match=words):
        export(model, example(), folder)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_failed_export_leaves_the_old_bundle(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export(model, example(), tmp_path / "b")
    before = file.read_bytes()
    monkeypatch.setattr("aurep.exporters.bundle.write_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(model, example(), tmp_path / "b")
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["b"]


def test_a_graph_that_differs_is_refused(model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = parity.run_file
    monkeypatch.setattr(parity, "run_file", lambda *given: right(*given) + np.float32(1e-3))
    with pytest.raises(AurepError, match="exported graph differs from the model: scaled error"):
        export(model, example(), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []


PROGRAM = """
import sys
from tests.exporters.exporting import example, small_net
from aurep.exporters import export
export(small_net(), example(), sys.argv[1])
export(small_net(), example(), sys.argv[1] + "2")
"""


def test_exports_are_byte_identical_across_processes_and_silent(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / seed)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == ("", "")
    names = sorted(os.listdir(tmp_path / "1"))
    for name in names:
        digests = {hashlib.sha256((tmp_path / f / name).read_bytes()).hexdigest() for f in ("1", "12", "2", "22")}
        assert len(digests) == 1, name


class Untraceable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else -x.mean((2, 3))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class NotFinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Untraceable(), "torch cannot export this model"),
        (Pair(), "returns a tuple"),
        (NotFinite(), "not finite"),
        (nn.Linear(5, 2), "does not run on an input of shape"),
        (nn.Flatten(0), "the first axis must be the batch"),
    ],
    ids=["untraceable", "tuple", "inf", "shape", "batch"],
)
def test_models_that_cannot_be_exported_get_a_sentence(broken: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(AurepError, match=words) as error:
        export(broken, example(), tmp_path / "m.onnx")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "tflite"}, "no target 'tflite'; choose one of crypten, "),
        ({"batch": 0}, "neither a positive number nor 'dynamic'"),
        ({"batch": "dynamic", "target": "crypten"}, "needs a fixed batch"),
        ({"origin": Origin(relu_budget=1)}, "but its budget is 1"),
        ({"relu_budget": 1}, "but its budget is 1"),
        ({"samples": (np.zeros((2, 3, 6, 6)), np.zeros(2))}, r"expected \('N', 2, 6, 6\)"),
    ],
    ids=["target", "batch", "dynamic", "origin", "budget", "samples"],
)
def test_wrong_usage_gets_a_sentence(options: dict[str, object], words: str, model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(AurepError, match=words):
        export(model, example(), tmp_path / "m.onnx", **options)


def test_an_example_input_of_integers_gets_a_sentence(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(AurepError, match="expected a float tensor"):
        export(model, torch.zeros(1, 2, 6, 6, dtype=torch.uint8), tmp_path / "m.onnx")


def test_sites_that_may_keep_relus_are_claimed_and_held(tmp_path: Path) -> None:
    """`few` keeps at one of two sites; a gate between them is none of the search's choice."""
    gated = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.ReLU(), nn.Flatten())
    model = prepare(nn.Sequential(*gated, nn.Linear(64, 3)), torch.zeros(1, 3, 4, 4)).eval()
    first, second = hybrid_sites(model)
    second.set_mask(torch.zeros(second.shape))
    path = export(model, torch.zeros(1, 3, 4, 4), tmp_path / "m.onnx", origin=Origin(max_sites=1))
    claimed = Metadata.from_props({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    assert claimed.max_sites == 2
    report = validate(path)
    assert report.passed, report
    assert report.relu_sites == 2
    assert [(c.measured, c.allowed) for c in report.checks if c.name == "relu-sites"] == [(2, 2)]
    refused = validate(path, max_sites=1)
    assert [c.name for c in refused.checks if not c.passed] == ["relu-sites"]
    first.set_mask(torch.ones(first.shape))
    second.set_mask(torch.ones(second.shape))
    with pytest.raises(AurepError, match="keeps ReLUs at 2 sites, but 1 are allowed"):
        export(model, torch.zeros(1, 3, 4, 4), tmp_path / "two.onnx", origin=Origin(max_sites=1))
