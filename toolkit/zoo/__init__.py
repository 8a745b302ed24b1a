"""Trained networks that a clone of the repository brings along: `zoo/NAME`, named `zoo:NAME` on the command line.

Each is a run folder made small (`packing`): weights of more than one dimension in fp16, no teacher, checkpoint,
indicators or images, and accuracies that were measured again with those weights. One that keeps all of its ReLUs is a
teacher for further runs. To find and list them takes no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aurep.errors import AurepError

PREFIX = "zoo:"
CARD, COSTS = "README.md", "costs.json"
_WHOLE = ("config.toml", "model.safetensors", "run.json")


def resolve(name: str) -> Path:
    """The folder of `zoo:NAME`, in the clone that aurep is imported from or in the current folder.

    Raises:
        AurepError: there is none of that name.
    """
    found = entries()
    if (wanted := name.removeprefix(PREFIX)) in found:
        return found[wanted]
    here = f"the zoo here holds {', '.join(found)}" if found else "no zoo is here: it comes with a clone, not a wheel"
    raise AurepError(f"there is no {PREFIX}{wanted} ({here}); run this in a clone, or name a run folder.")


def entries() -> dict[str, Path]:
    """Name and folder of every network in the zoo, by name; in the clone's where the current folder has one as well."""
    homes = [Path("zoo").resolve(), Path(__file__).resolve().parents[2] / "zoo"]
    found = {entry.name: entry for home in homes if home.is_dir() for entry in home.iterdir() if _is_whole(entry)}
    return dict(sorted(found.items()))


def costs_of(entry: Path) -> dict[str, str]:
    """Protocol and what one inference sends and waits for by it, in words; empty where nobody counted."""
    file = entry / COSTS
    counted = json.loads(file.read_text()) if file.is_file() else []
    return {f"{cost['framework']} {cost['protocol']}": in_words(cost) for cost in counted}


def in_words(cost: dict[str, Any]) -> str:
    """A row of `aurep.costs.RunCosts`."""
    rounds = "" if cost["rounds"] is None else f", {cost['rounds']:,} rounds"
    return f"{cost['bytes'] / 1e6:,.1f} MB{rounds}"


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _WHOLE)
