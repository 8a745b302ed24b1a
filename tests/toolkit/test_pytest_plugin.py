"""The fixture that pytest finds where aurep is installed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.validators import graphs

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's tests beside a bundle of 20 ReLUs, with this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    graphs.bundle(pytester.path / "bundle")
    return pytester


def test_the_installation_names_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"aurep": "aurep.pytest_plugin"}


def test_good_bad_and_unreadable_files(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_good(aurep_validate):
            assert aurep_validate("bundle", budget=20).relu_count == 20

        def test_bad(aurep_validate):
            aurep_validate("bundle", budget="19", provider="cpu")

        def test_unreadable(aurep_validate):
            aurep_validate("absent.onnx")
    """)
    result = suite.runpytest_inprocess("-p", "aurep.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "bundle/model.onnx: 1 of * checks failed (relu-count).",
            "relu-count: measured 20, allowed 19. The graph evaluates 20 ReLU-like elements per image but 19 are *",
            "absent.onnx does not exist*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_it_has_a_line_in_the_list_of_fixtures(suite: pytest.Pytester) -> None:
    result = suite.runpytest_inprocess("-p", "aurep.pytest_plugin", "--fixtures")
    result.stdout.fnmatch_lines(["aurep_validate*", "*fails the test with a sentence*"])
