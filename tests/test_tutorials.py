"""The tutorials do what they say: their files are written, their commands run, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"
_BLOCK = re.compile(r'^```(python title="(?P<file>[\w.]+)"|console)\n(?P<text>.*?)^```', re.MULTILINE | re.DOTALL)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """("file name", its text) of a Python block and ("$", command) of each line of a console block."""
    for block in _BLOCK.finditer((PAGES / page).read_text()):
        if block["file"]:
            yield block["file"], block["text"]
            continue
        for line in block["text"].splitlines():
            assert line.startswith("$ "), f"{page}: {line!r} is no command"
            yield "$", line[2:]


def do(page: str, folder: Path, encrypted: bool | None = None) -> int:
    """Run `page` in `folder`: all of it, or only what is (not) `aurep handoff`. Returns the commands that ran."""
    settings = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for kind, text in steps(page):
        if kind != "$":
            (folder / kind).write_text(text)
        elif encrypted is None or text.startswith("aurep handoff") is encrypted:
            run = subprocess.run(text.split(), cwd=folder, env=settings, capture_output=True, text=True, check=False)
            assert run.returncode == 0, f"{text}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
            assert "cannot" not in run.stderr, f"{text}\n{run.stderr}"
            ran += 1
    return ran


def test_every_page_is_run() -> None:
    assert sorted(path.name for path in PAGES.glob("*.md")) == ["own-loop.md", "own-network.md"]


def test_own_loop(tmp_path: Path) -> None:
    assert do("own-loop.md", tmp_path) == 2


@pytest.fixture(scope="module")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    assert do("own-network.md", folder, encrypted=False) >= 6
    return folder


def test_own_network(own_network: Path) -> None:
    assert (own_network / "run" / "report.html").is_file()
    assert (own_network / "bundle" / "skeleton.onnx").is_file()


def test_own_network_encrypted(own_network: Path, python_of: Callable[[str], Path]) -> None:
    python_of("crypten")
    assert do("own-network.md", own_network, encrypted=True) == 1
