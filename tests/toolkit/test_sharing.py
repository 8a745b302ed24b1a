"""Bundles to a hub and back, with the hub's own client in processes of its own: it reads its settings when imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from numpy.typing import NDArray

from tests.toolkit.hub import Hub, serving
from tests.validators import graphs

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra hub)")
TOKEN = "hf_correctcorrect"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as made:
        yield made


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def aurep(hub: Hub, tmp_path: Path) -> Run:
    """The command, in `tmp_path`, with the hub's settings; more of them as keywords."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment = kept | {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", "from aurep.cli import main; main()", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment | settings, capture_output=True, text=True, check=False, timeout=300
        )

    return run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = graphs.hybrid()
    claim = graphs.claim(made)
    training = claim.training.model_copy(update={"model": "resnet9", "data": "cifar10", "test_accuracy": 81.5})
    folder = graphs.bundle(tmp_path / "bundle", made, claim.model_copy(update={"training": training}))
    (folder / "README.md").write_text("# resnet9 on cifar10\n")
    return folder


def test_a_bundle_comes_back_as_it_went_also_without_a_network(
    aurep: Run, hub: Hub, bundle: Path, tmp_path: Path
) -> None:
    with (bundle / "README.md").open("a") as card:
        card.write("more of it\n" * 1_000_000)  # past what the hub takes within a commit
    pushed = aurep("push", "bundle", "hf:ours/small", "--license", "apache-2.0")
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.address}/ours/small" in pushed.stdout
    assert TOKEN not in pushed.stdout + pushed.stderr
    pulled = aurep("pull", "hf:ours/small", "back")
    assert pulled.returncode == 0, pulled.stdout + pulled.stderr
    offline = aurep(
        "pull", "hf:ours/small", "again", "--no-validate", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert offline.returncode == 0, offline.stderr
    for folder in ("back", "again"):
        assert sorted(file.name for file in (tmp_path / folder).iterdir()) == [
            "README.md",
            "budget.json",
            "model.onnx",
            "samples.npz",
        ]
        for name in ("model.onnx", "budget.json", "samples.npz"):
            assert (tmp_path / folder / name).read_bytes() == (bundle / name).read_bytes()
            assert not (tmp_path / folder / name).is_symlink()
        assert (tmp_path / folder / "README.md").read_text().endswith((bundle / "README.md").read_text())
    assert aurep("push", "back", "hf:ours/small", "--no-validate").returncode == 0
    cards = [files["README.md"].decode() for files in hub.commits["ours/small"].values()]
    assert [card.count("\n---\n") for card in cards] == [1, 1]  # a card that was pulled does not get a second head
    pushed_files = next(iter(hub.commits["ours/small"].values()))
    large = {sha256(pushed_files[name]).hexdigest() for name in ("model.onnx", "samples.npz", "README.md")}
    assert large < set(hub.puts)  # by git-lfs
    assert len(hub.puts) == 4  # the second time, only the card, whose head names no licence any more


def test_what_storage_damaged_is_refused_and_not_taken_from_the_cache_later(
    aurep: Run, hub: Hub, bundle: Path, tmp_path: Path
) -> None:
    """The client compares sizes only, and keeps in its cache what came."""
    assert aurep("push", "bundle", "hf:ours/small", "--no-validate").returncode == 0
    name = sha256((bundle / "model.onnx").read_bytes()).hexdigest()
    whole = hub.stored[name]
    hub.stored[name] = whole[:-1] + bytes([whole[-1] ^ 1])
    refused = aurep("pull", "hf:ours/small", "back", "--no-validate")
    assert refused.returncode == 2
    assert "model.onnx of hf:ours/small is not the file" in refused.stderr
    assert not (tmp_path / "back").exists()
    hub.stored[name] = whole
    pulled = aurep("pull", "hf:ours/small", "back", "--no-validate")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "back/model.onnx").read_bytes() == whole


def test_the_card_says_what_the_records_say(aurep: Run, hub: Hub, bundle: Path) -> None:
    assert aurep("push", "bundle", "hf:ours/small", "--license", "mit", "--no-validate").returncode == 0
    (files,) = hub.commits["ours/small"].values()
    head, body = files["README.md"].decode().removeprefix("---\n").split("\n---\n", 1)
    fields = yaml.safe_load(head)
    assert body == "# resnet9 on cifar10\n"
    assert (fields["license"], fields["library_name"]) == ("mit", "aurep")
    assert fields["datasets"] == ["uoft-cs/cifar10"]
    assert {"onnx", "private-inference"} <= set(fields["tags"])
    (entry,) = fields["model-index"]
    measured = {metric["type"]: metric["value"] for result in entry["results"] for metric in result["metrics"]}
    assert measured == {"accuracy": 81.5, "relu_count": 20}


def test_what_differs_from_its_digests_is_not_taken(aurep: Run, hub: Hub, bundle: Path, tmp_path: Path) -> None:
    assert aurep("push", "bundle", "hf:ours/small", "--no-validate").returncode == 0
    honest = next(iter(hub.commits["ours/small"]))
    hub.commit("ours/small", {"samples.npz": b"other"})
    refused = aurep("pull", "hf:ours/small", "back", "--no-validate")
    assert refused.returncode == 2
    assert "samples.npz of hf:ours/small is not the file" in refused.stderr
    assert not (tmp_path / "back").exists()
    assert aurep("pull", f"hf:ours/small@{honest}", "back", "--no-validate").returncode == 0


def test_a_bundle_that_fails_validation_is_not_pushed(aurep: Run, hub: Hub, bundle: Path) -> None:
    def keep_more(values: NDArray[Any]) -> None:
        values[0] += 1.0

    name = next(t.name for t in graphs.hybrid().model.graph.initializer if t.data_type == 1)
    graphs.tamper(bundle, graphs.change_initializer(name, keep_more))
    assert aurep("push", "bundle", "hf:ours/small").returncode == 1
    assert hub.commits == {}


def test_refusals_are_sentences_without_the_token(aurep: Run, bundle: Path, tmp_path: Path) -> None:
    wrong = aurep("push", "bundle", "hf:ours/small", "--no-validate", HF_TOKEN="hf_wrongwrongwrong")
    assert wrong.returncode == 2
    assert "pushing to hf:ours/small failed" in wrong.stderr
    assert "hf_wrong" not in wrong.stderr + wrong.stdout
    absent = aurep("pull", "hf:ours/none", "back")
    assert absent.returncode == 2
    assert "pulling hf:ours/none failed" in absent.stderr
    assert "names no repository" in aurep("push", "bundle", "ours/small", "--no-validate").stderr
    assert "exists" in aurep("pull", "hf:ours/small", "bundle").stderr
    (bundle / "budget.json").write_text((bundle / "budget.json").read_text().replace("81.5", "95.5"))
    assert "contradict each other" in aurep("push", "bundle", "hf:ours/small", "--no-validate").stderr
