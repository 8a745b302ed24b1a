"""A user's own trained network as the teacher: its weights found, read without pickle, and fitted to the model.

RUN                 a run folder of aurep: the teacher in it, or its network where that keeps all of its ReLUs
FILE.safetensors    or any file that torch.load(weights_only=True) reads a state dict from
hf:OWNER/REPO       model.safetensors, or pytorch_model.bin, of a repository on the Hugging Face hub
timm:NAME           what timm loads for `pretrained=True`; timm:NAME@FILE a file in its place, in the same way
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aurep.errors import AurepError
from aurep.models.external import preprocessing_of_timm, pretrained_timm
from aurep.results import read_result
from aurep.training.checkpoint import RunFolder, read_weights
from aurep.training.config import Config, check_config

_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "state_dict_ema", "model_ema")
_WRAPPERS = ("module.", "model.", "_orig_mod.")  # DataParallel, Lightning and the like, torch.compile
_SHOWN = 20  # lines of a diff
_COUNTER = ".num_batches_tracked"  # of batch norms: older files lack it, and nothing here reads it


def read_teacher(source: str, model: nn.Module) -> dict[str, Tensor]:
    """The weights of `source`, which `model` can load.

    Raises:
        AurepError: `source` cannot be had or read, or is of another network; then the keys that do not fit are listed.
    """
    weights = dict(_unwrapped(_find(source, model), model))
    expected = model.state_dict()
    for name in expected:
        if name.endswith(_COUNTER):
            weights.setdefault(name, torch.zeros((), dtype=torch.int64))
    if lines := list(_differences(weights, expected)):
        more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise AurepError(
            f"the teacher {source} does not fit the model: {len(lines)} of its weights differ (- it lacks them, + the "
            "model has no such, ~ of another shape); choose the model that it was trained as, its width and classes:",
            [*lines[:_SHOWN], *more],
        )
    return weights


def resolved(config: Config) -> Config:
    """`config` with what timm's weights imply: that they are the teacher, and how they want their images.

    Keys of [data] that the user set stay. Raises AurepError where `model.pretrained` is set for another kind of model.
    """
    if config.model.pretrained and not config.model.name.startswith("timm:"):
        raise AurepError(
            f"model.pretrained = true, but {config.model.name!r} is none of timm's models; name weights with --teacher."
        )
    source = config.baseline.checkpoint or (config.model.name if config.model.pretrained else None)
    if source is None or not source.startswith("timm:"):
        return config
    wanted = preprocessing_of_timm(source.removeprefix("timm:").partition("@")[0])
    given = config.data.model_fields_set
    fields = config.model_dump(mode="json", exclude_none=True)
    fields["baseline"]["checkpoint"] = source
    fields["data"] |= {key: value for key, value in wanted.items() if key not in given}
    return check_config(fields)


def _find(source: str, model: nn.Module) -> Mapping[str, Any]:
    if source.startswith("timm:"):
        name, _, file = source.removeprefix("timm:").partition("@")
        return pretrained_timm(name, file or None, model)
    if source.startswith("hf:"):
        return _read_file(_download(source.removeprefix("hf:")))
    path = Path(source)
    return _read_run(path) if path.is_dir() else _read_file(path)


def _read_run(path: Path) -> Mapping[str, Any]:
    """The teacher of the run in folder `path`; a finished run without one may itself be an all-ReLU network."""
    folder = RunFolder(path)
    if folder.teacher.exists() or not folder.finished:
        return read_weights(folder.teacher)
    result = read_result(path)
    if result.relu_count < result.relu_total:
        raise AurepError(
            f"{path} holds no teacher, and its own network keeps {result.relu_count:,} of {result.relu_total:,} ReLUs; "
            "a teacher keeps all of them."
        )
    weights, sites = read_weights(folder.model), tuple(f"{site.name}." for site in result.sites)
    return {name: tensor for name, tensor in weights.items() if not name.startswith(sites)}


def _download(repository: str) -> Path:
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise AurepError(f'a teacher from hf: needs huggingface_hub ({error}); pip install "aurep[hf]".') from None
    refusals = []
    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            return Path(hub.hf_hub_download(repository, name))
        except Exception as error:  # the hub's client raises requests', its own and the system's errors
            refusals.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    raise AurepError(f"hf:{repository} gives no weights ({'; '.join(refusals)}); check the name and the network.")


def _read_file(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors" or not path.is_file():
        return read_weights(path)
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch.load raises whatever the file makes it trip over
        raise AurepError(
            f"{path} is no file of plain weights ({type(error).__name__}); save them with "
            "torch.save(model.state_dict(), FILE), or as safetensors."
        ) from None
    if not isinstance(found, Mapping):
        raise AurepError(f"{path} holds a {type(found).__name__}, expected a state dict: names and tensors.")
    return found


def _unwrapped(found: Mapping[str, Any], model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict, out of a training checkpoint and of wrappers' prefixes."""
    expected = model.state_dict()
    for nest in _NESTS:
        if isinstance(found.get(nest), Mapping):
            found = found[nest]
            break
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    while tensors and not tensors.keys() & expected.keys():
        prefix = next((p for p in _WRAPPERS if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    for name, value in tensors.items():
        yield name, value.float() if value.is_floating_point() else value


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    for name in dict.fromkeys([*expected, *found]):
        if name not in found:
            yield f"  - {name} {tuple(expected[name].shape)}"
        elif name not in expected:
            yield f"  + {name} {tuple(found[name].shape)}"
        elif found[name].shape != expected[name].shape:
            yield f"  ~ {name} {tuple(found[name].shape)}, the model has {tuple(expected[name].shape)}"
