"""The generated pages say what the classes say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from aurep.search import POLICIES
from aurep.training.config import Config
from docs.hooks.configuration import comments, reference

SECTIONS: dict[str, type[BaseModel]] = {name: type(section) for name, section in Config()}


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of the table under `heading`, by key."""
    (part,) = re.findall(rf"^{re.escape(heading)}\n(.*?)(?=^##|\Z)", reference(), re.MULTILINE | re.DOTALL)
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.mark.parametrize("name", SECTIONS)
def test_every_key_has_its_type_default_and_meaning(name: str) -> None:
    section, found = SECTIONS[name], rows(f"## [{name}]")
    assert list(found) == list(section.model_fields)
    defaults = section().model_dump(mode="json")
    for key, (kind, default, meaning) in found.items():
        assert kind
        assert meaning, f"say beside {name}.{key} what it is"
        assert (None if default == "not set" else json.loads(default.strip("`"))) == defaults[key]


@pytest.mark.parametrize("method", POLICIES)
def test_every_option_of_a_method_is_listed(method: str) -> None:
    assert list(rows(f"### {method}")) == list(POLICIES[method].Options.model_fields)


def test_types_are_in_words() -> None:
    assert rows("## [model]")["input_size"][0] == "integer ≥ 4, ≤ 4096 or list of 2 × integer ≥ 4, ≤ 4096"
    assert rows("## [finetune]")["optimizer"][0] == '`"sgd"` or `"adamw"`'
    assert rows("## [search]")["width_multipliers"][0] == "list of number > 0, ≤ 1"
    assert rows("### senet")["density"][0] == "number > 0, < 1"


def test_a_comment_of_a_statement_over_several_lines_is_found() -> None:
    class Section(BaseModel):
        first: int = 1  # one
        second: tuple[int, ...] = (
            1,  # not this
            2,
        )  # two
        third: int = 3

    assert comments(Section) == {"first": "one", "second": "two"}


ROOT = Path(__file__).parents[1]
# Links out are not fetched: this passes without a network, and a site that is down is no fault of a change. A host that
# is not here was mistyped, or is to be opened once by whoever adds it.
HOSTS = {"github.com", "semver.org"}
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks/results").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_out_are_https_to_known_hosts(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for address in re.findall(r"\w+://[^\s)>\]\"']*", text):
        parts = urlsplit(address)
        assert parts.scheme == "https", f"{page.name}: {address}"
        assert parts.hostname in HOSTS, f"{page.name}: {address}; open it, then add its host to HOSTS"
