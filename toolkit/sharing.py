"""Bundles on the Hugging Face hub: pushed with a model card made of their own records, pulled and checked.

What is pushed besides a bundle's files: README.md begins with the hub's metadata, and SHA256SUMS names every file, as
sha256sum writes it. What is pulled is held against that, and against what the ONNX file says of its own graph, before
it takes its name. The client is huggingface_hub: HF_TOKEN or its login, HF_ENDPOINT, its cache, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from aurep.errors import AurepError
from aurep.exporters import export_run
from aurep.exporters.bundle import BUDGET, CARD, MODEL, SAMPLES, SKELETON
from aurep.files import folder_beside, sha256, write_text
from aurep.metadata import Metadata, graph_digest
from aurep.validators.files.reading import read, read_json
from aurep.zoo import PREFIX, resolve

HUB = "hf:"
SUMS = "SHA256SUMS"
_DATA_SETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "tiny-imagenet": "zh-plus/tiny-imagenet"}
_FILES = (MODEL, BUDGET, SAMPLES, SKELETON, CARD)


@contextmanager
def bundle_of(source: str, data_dir: Path | None = None) -> Iterator[Path]:
    """The bundle that BUNDLE or zoo:NAME names; a zoo's network is exported for target onnx, for as long as needed.

    `data_dir` is where the zoo's network finds its data set.
    """
    if not source.startswith(PREFIX):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield export_run(resolve(source), Path(folder) / "bundle", data_dir=data_dir).parent


def push(bundle: Path, to: str, *, licence: str | None = None, private: bool = False) -> str:
    """Upload the folder `bundle` to `to`, hf:OWNER/NAME, which is made if it is not there; one commit.

    Args:
        licence: the hub's name of it, such as apache-2.0; nothing in a bundle says which.
        private: of a repository that is made.

    Returns:
        The repository's address.

    Raises:
        AurepError: no bundle, one whose records contradict it, or the hub's refusal.
    """
    repository, revision = _repository(to)
    metadata = check_records(bundle)
    with tempfile.TemporaryDirectory() as name, _refusals(f"pushing to {to}"):
        staged = Path(name)
        for file in _FILES:
            if (bundle / file).is_file():
                shutil.copyfile(bundle / file, staged / file)
        card = (staged / CARD).read_text(encoding="utf-8") if (staged / CARD).exists() else ""
        write_text(staged / CARD, front_matter(metadata, licence) + without_front_matter(card))
        write_text(staged / SUMS, "".join(f"{sha256(file)}  {file.name}\n" for file in sorted(staged.iterdir())))
        client = _hub().HfApi()
        address = client.create_repo(repository, private=private, exist_ok=True)
        said = f"{metadata.relu_count:,} of {metadata.relu_total:,} ReLUs, target {metadata.target}"
        client.upload_folder(repo_id=repository, folder_path=staged, commit_message=said, revision=revision)
    return str(address)


def pull(source: str, destination: Path) -> Path:
    """Download hf:OWNER/NAME (or hf:OWNER/NAME@REVISION) into the new folder `destination`, a bundle.

    Files come through the hub's cache; with HF_HUB_OFFLINE=1 from there alone.

    Raises:
        AurepError: `destination` exists, the hub's refusal, or files that are not what the repository says they are.
    """
    if destination.exists():
        raise AurepError(f"{destination} exists; give the name of a new folder.")
    try:
        _take(source, destination)
    except _Damaged:
        if _hub().constants.HF_HUB_OFFLINE:
            raise
        _take(source, destination, force_download=True)  # the cache keeps damaged files too, and would for ever
    return destination


class _Damaged(AurepError):
    """A file that is not the one listed."""


def _take(source: str, destination: Path, **options: bool) -> None:
    repository, revision = _repository(source)
    wanted = [*_FILES, SUMS]
    with _refusals(f"pulling {source}"):
        found = Path(_hub().snapshot_download(repository, revision=revision, allow_patterns=wanted, **options))
    with folder_beside(destination) as made:
        for name in wanted:
            if (found / name).is_file():
                shutil.copyfile(found / name, made / name)  # the cache holds links
        _check_sums(made, source)
        check_records(made)
        made.rename(destination)


def check_records(bundle: Path) -> Metadata:
    """The claims of a bundle, which its parts agree on. Whether they are true is for `aurep validate` to say."""
    if not bundle.is_dir():
        raise AurepError(f"{bundle} is no folder; give a bundle, as `aurep export` writes them.")
    artefact = read(bundle)
    if artefact.metadata is None:
        raise AurepError(f"{artefact.file} says nothing of itself that aurep could read: {artefact.problem}.")
    if graph_digest(artefact.model) != artefact.metadata.graph_sha256:
        raise AurepError(f"{artefact.file} holds another graph than it was exported with; export or copy it again.")
    fields = read_json(bundle / BUDGET)
    if not isinstance(fields, dict) or Metadata.check(fields) != artefact.metadata:
        raise AurepError(
            f"{bundle / BUDGET} and {artefact.file} contradict each other; export or copy the bundle again."
        )
    return artefact.metadata


def _check_sums(folder: Path, source: str) -> None:
    """Every file is listed in SHA256SUMS and is what that says; the list itself is left out of the bundle."""
    sums = folder / SUMS
    if not sums.exists():
        raise AurepError(f"{source} holds no {SUMS}: `aurep push` did not write it; download it with the hub's client.")
    lines = [line.partition("  ") for line in sums.read_text().splitlines()]
    listed = {name: digest for digest, _, name in lines}
    sums.unlink()
    present = {file.name for file in folder.iterdir()}
    if lacking := sorted(listed.keys() - present):
        raise AurepError(f"{source} lacks {', '.join(lacking)}, which its {SUMS} lists; push the bundle again.")
    for name in sorted(present):
        if listed.get(name) != sha256(folder / name):
            raise _Damaged(f"{name} of {source} is not the file that its {SUMS} lists; pull or push it again.")


# --- the model card ---


def front_matter(metadata: Metadata, licence: str | None = None) -> str:
    """The card's metadata in the hub's form: YAML between two lines of dashes."""
    hub, training = _hub(), metadata.training
    results = []
    data = _DATA_SETS.get(training.data or "", (training.data or "").removeprefix(HUB) or None)
    if training.test_accuracy is not None and data is not None:
        facts = {"task_type": "image-classification", "dataset_type": data, "dataset_name": training.data or data}
        measured = [("accuracy", "test accuracy, %", training.test_accuracy)]
        measured.append(("relu_count", "ReLU elements per image", metadata.relu_count))
        results = [
            hub.EvalResult(metric_type=kind, metric_name=name, metric_value=value, **facts)
            for kind, name, value in measured
        ]
    card = hub.ModelCardData(
        license=licence,
        library_name="aurep",
        pipeline_tag="image-classification",
        tags=["onnx", "private-inference", "relu-budget", metadata.target],
        datasets=[data] if data is not None and "/" in data and ":" not in data else None,
        metrics=["accuracy"] if results else None,
        model_name=" on ".join(part for part in (training.model, training.data) if part) or "network",
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def without_front_matter(card: str) -> str:
    """A card that was pulled has its metadata already."""
    return re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)


# --- the client ---


def _repository(text: str) -> tuple[str, str | None]:
    """(OWNER/NAME, revision or None) of hf:OWNER/NAME[@REVISION]."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text)
    if match is None:
        raise AurepError(f"{text!r} names no repository; write hf:OWNER/NAME, or hf:OWNER/NAME@REVISION.")
    return match[1], match[2]


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise AurepError(f'hf: needs huggingface_hub ({error}); pip install "aurep[hub]".') from None


@contextmanager
def _refusals(doing: str) -> Iterator[None]:
    """Whatever the client raises, in a sentence without the token."""
    try:
        yield
    except AurepError:
        raise
    except Exception as error:  # the client raises its own, its transport's and the system's
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise AurepError(f"{doing} failed: {_without_tokens(said)}") from None


def _without_tokens(text: str) -> str:
    token = _hub().get_token()
    text = text.replace(token, "***") if token else text
    return re.sub(r"hf_\w{8,}", "***", text)
