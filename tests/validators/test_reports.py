"""Every rendering of a report, and the commands' exit codes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner

from aurep.cli.inspect import command as inspect_command
from aurep.cli.validate import command as validate_command
from aurep.errors import AurepError
from aurep.validators import report as report_module
from aurep.validators import validate
from aurep.validators.inspection import inspect
from aurep.validators.page import to_html
from aurep.validators.render import to_github, to_junit
from aurep.validators.report import Check, Report
from tests.validators import graphs

AWKWARD = 'a<b>&"c\x00\n100%,:'


@pytest.fixture
def report() -> Report:
    checks = (Check("structure", "0 faults", "0 faults", True), Check("sites", 3, None, False, AWKWARD))
    return Report(AWKWARD, "1.2", checks, relu_count=3, notes=(AWKWARD,), comparisons={"Relu": 3})


def test_junit_is_valid_whatever_the_names(report: Report) -> None:
    root = ElementTree.fromstring(to_junit(report).encode())
    suite = root[0]
    assert (root.tag, suite.get("tests"), suite.get("failures")) == ("testsuites", "2", "1")
    assert [case.get("name") for case in suite] == ["structure", "sites"]
    assert [case.find("failure") is None for case in suite] == [True, False]


def test_github_annotations_stay_on_one_line(report: Report) -> None:
    (line,) = to_github(report).splitlines()
    assert line.startswith("::error file=")
    assert "%0A" in line
    assert to_github(Report("f", "1", ())).startswith("::notice")


def test_html_is_self_contained_and_escaped(report: Report) -> None:
    page = to_html(report)
    assert "a<b>" not in page
    assert "http" not in page
    assert "<script" not in page
    HTMLParser().feed(page)


def full(bundle: Path, **changes: Any) -> Report:
    """Of a bundle with everything that a page shows."""
    found = validate(bundle, fixed_point="64:16")
    ranges = [
        {"name": AWKWARD, "measured": [-1, 2], "certified": [-2, 3], "seen": [-1, 4], "beyond": 0.2, "quantiles": []}
    ]
    accuracy = Check("accuracy", 80.0, 79.0, True, "", {"interval": [70.0, 90.0], "reference": 81.0})
    checks = (*found.checks, accuracy, Check("range", "1 of 1", "0", False, "", {"sites": ranges}))
    return replace(found, checks=checks, **changes)


def test_a_page_with_every_plot_is_self_contained(bundle: Path) -> None:
    """Names of a file are neither mark-up nor TeX."""
    report = full(bundle)
    odd = "$\\frac{\x00é<script>"
    rows = ({**report.sites[0], "name": odd}, *report.sites)
    page = to_html(replace(report, sites=rows, maps={odd: [[0.0, 1.0]], **report.maps}))
    assert page.count("<svg") == 6
    assert "<script" not in page
    links = re.findall(r'(?:src|href|url)[=(]"?([^")\s]*)', page)
    assert all(value.startswith(("#", "data:")) for value in links), links
    HTMLParser().feed(page)


def test_every_report_fits_the_shipped_schema(bundle: Path, report: Report) -> None:
    shipped = Path(report_module.__file__).with_name("report.schema.json").read_text()
    assert shipped == report_module.json_schema()
    failing = Report("f", "1", (Check("parity", float("inf"), float("nan"), False, "", {"x": float("nan")}),))
    for one in (full(bundle), validate(bundle, budget="5"), report, failing):
        jsonschema.validate(json.loads(one.to_json()), json.loads(shipped))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(report.to_json()), "extra": 1}, json.loads(shipped))


@pytest.mark.parametrize("place", ["op_type", "name"])
def test_a_name_in_a_file_writes_no_line_of_its_own(place: str, tmp_path: Path) -> None:
    """Standard output is read by CI: a line that begins with :: is a command."""
    model = graphs.body("y = Abs(x)")
    setattr(model.graph.node[0], place, "Ab\n::notice title=aurep::all checks passed\n")
    file = graphs.save(model, tmp_path / "m.onnx")
    for command in (validate_command, inspect_command):
        result = CliRunner().invoke(command, [str(file)])
        assert not any(line.startswith("::") for line in result.output.splitlines()), result.output


def test_json_is_strict() -> None:
    text = Report("f", "1", (Check("parity", float("inf"), float("nan"), False),)).to_json()
    assert json.loads(text)["checks"][0]["measured"] == "inf"


def run_validate(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(validate_command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_exit_codes(bundle: Path) -> None:
    code, output = run_validate(bundle)
    assert code == 0
    assert "checks passed" in output
    code, output = run_validate(bundle, "--budget", "5", "--github")
    assert code == 1
    assert "::error file=" in output
    assert run_validate(bundle, "--provider", "tpu")[0] == 2
    assert run_validate(bundle, "--json", "-", "--junit", "-")[0] == 2


def test_unreadable_input_is_an_aurep_error(tmp_path: Path) -> None:
    """The command group prints it as one sentence and exits with 2."""
    result = CliRunner().invoke(validate_command, [str(tmp_path / "absent")])
    assert isinstance(result.exception, AurepError)


def test_files_are_written(bundle: Path, tmp_path: Path) -> None:
    names = {kind: tmp_path / f"report.{kind}" for kind in ("json", "junit", "html")}
    code, _ = run_validate(bundle, *(item for kind, name in names.items() for item in (f"--{kind}", name)))
    assert code == 0
    written = json.loads(names["json"].read_text())
    assert {"passed", "file", "version", "relu_count", "relu_total", "relu_budget", "sites", "checks"} <= set(written)
    assert set(written["checks"][0]) == {"name", "measured", "allowed", "passed", "hint", "detail"}
    assert ElementTree.parse(names["junit"]).getroot().tag == "testsuites"
    assert names["html"].read_text().startswith("<!doctype html>")


def test_json_to_standard_output_is_alone_there(bundle: Path) -> None:
    result = CliRunner().invoke(validate_command, [str(bundle), "--json", "-"])
    assert json.loads(result.stdout)["passed"] is True


def test_inspect_a_model(bundle: Path) -> None:
    result = CliRunner().invoke(inspect_command, [str(bundle), "--json"])
    found = json.loads(result.output)
    assert (found["relu_count"], found["relu_total"], found["relu_budget"]) == (20, 144, 20)
    assert found["comparisons"] == {"Relu": 20}
    assert found["multiplications"] == 144
    assert (found["depth"], found["compared_depth"]) == (4, 1)  # conv, the polynomial's two, head
    assert "act" in CliRunner().invoke(inspect_command, [str(bundle)]).output


def test_inspect_writes_json_to_a_file_beside_the_table(bundle: Path, tmp_path: Path) -> None:
    printed = CliRunner().invoke(inspect_command, [str(bundle), "--json"]).output
    assert CliRunner().invoke(inspect_command, ["--json", str(bundle)]).output == printed
    done = CliRunner().invoke(inspect_command, [str(bundle), "--json", str(tmp_path / "found.json")])
    assert (tmp_path / "found.json").read_text() == printed
    assert "ReLU count 20 of 144" in done.output
    assert CliRunner().invoke(inspect_command, ["--json"]).exit_code == 2


def test_inspect_an_uncountable_model(tmp_path: Path) -> None:
    file = graphs.save(graphs.body("y = evil.Fast(x)"), tmp_path / "m.onnx")
    assert "evil::Fast" in CliRunner().invoke(inspect_command, [str(file)]).output


def test_inspect_a_run(tmp_path: Path) -> None:
    site = {"name": "relu", "shape": [4, 2, 2], "elements": 16, "kept": 4, "degree": 2}
    facts = {"relu_budget": 5, "relu_count": 4, "relu_total": 16, "sites": [site], "more": "things"}
    facts |= {"input": {"shape": [4, 2, 2]}, "classes": [], "seconds": 1.5, "finished": "2026-01-01"}
    facts |= {"training": {"test_accuracy": 90, "teacher_test_accuracy": 91}}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    found = inspect(tmp_path)
    assert (found.relu_count, found.relu_total, found.relu_budget, found.multiplications) == (4, 16, 5, 16)
    assert found.comparisons is None
    assert CliRunner().invoke(inspect_command, [str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize("text", ["[]", "{}", '{"sites": 3}', "{"])
def test_inspect_a_damaged_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(AurepError, match=r"run\.json"):
        inspect(tmp_path)
