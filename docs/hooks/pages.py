"""Pages of the site that lie elsewhere in the repository: README, CONTRIBUTING, CHANGELOG and the benchmarks' results.

Their relative links, and those from `docs/` to them, are rewritten to where the site has them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
BORROWED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
RESULTS = "benchmarks/results/"


def on_startup(**_: object) -> None:
    """Lay the three folders out as the one package that they are installed as, for the reference, which reads files.

    Before any plugin is configured: the reference's leaves out paths that are not there.
    """
    package = ROOT / "build" / "package" / "aurep"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "toolkit", package)
    for part in ("exporters", "validators"):
        shutil.copytree(ROOT / part, package / part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the borrowed pages."""
    for source, place in BORROWED.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for path in sorted((ROOT / RESULTS).glob("*")):
        if path.suffix in (".md", ".svg", ".png"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links as the site needs them."""
    if page.file.src_uri in BORROWED.values():
        markdown = markdown.replace("](docs/", "](").replace(f"]({RESULTS}", "](results/")
        for source, place in BORROWED.items():
            markdown = markdown.replace(f"]({source})", f"]({place})")
        return markdown
    return re.sub(r"\.\./benchmarks/results/", "results/", markdown)
