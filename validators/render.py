"""Reports for people and machines: console table, JUnit XML, GitHub annotations. (`page` is the HTML one.)"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from aurep.errors import one_line
from aurep.validators.report import Check, Figure, Report

if TYPE_CHECKING:
    from rich.console import Console


def figure(value: Figure) -> str:
    """A figure as people read it: counts with separators."""
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def verdict(report: Report) -> str:
    """One line that says how it went."""
    failed = [check.name for check in report.checks if not check.passed]
    if not failed:
        return f"{report.file}: all {len(report.checks)} checks passed."
    return f"{report.file}: {len(failed)} of {len(report.checks)} checks failed ({', '.join(failed)})."


def to_console(report: Report, console: Console) -> None:
    """The table, then hints and notes below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "measured", "allowed", box=None, pad_edge=False)
    for check in report.checks:
        mark = Text("✓", "green") if check.passed else Text("✗", "bold red")
        table.add_row(mark, check.name, *(Text(one_line(figure(v))) for v in (check.measured, check.allowed)))
    console.print(table)
    for check in report.checks:
        if check.hint:
            style = "none" if check.passed else "red"
            console.print(Text(one_line(f"{check.name}: {check.hint}"), style), soft_wrap=True)
    for note in report.notes:
        console.print(Text(one_line(f"note: {note}"), "dim"), soft_wrap=True)
    if report.provider:
        console.print(Text(f"ran on: {report.provider}", "dim"))
    console.print(Text(one_line(verdict(report)), "green" if report.passed else "bold red"), soft_wrap=True)


def to_junit(report: Report) -> str:
    """JUnit XML: one test case a check."""
    failures = sum(not check.passed for check in report.checks)
    counts = {"tests": str(len(report.checks)), "failures": str(failures), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "aurep validate", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _xml(report.file), **counts})
    for check in report.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "aurep.validate", "name": check.name})
        if check.passed:
            ElementTree.SubElement(case, "system-out").text = _xml(summary(check))
        else:
            failure = ElementTree.SubElement(case, "failure", {"type": check.name, "message": _xml(summary(check))})
            failure.text = _xml(check.hint)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def to_github(report: Report) -> str:
    """Workflow commands: an error for each failed check, a notice where all passed."""
    lines = [
        f"::error file={_property(report.file)},title={_property(f'aurep {check.name}')}::{_message(summary(check))}"
        for check in report.checks
        if not check.passed
    ]
    return (
        "\n".join(lines or [f"::notice file={_property(report.file)},title=aurep::{_message(verdict(report))}"]) + "\n"
    )


def refusal(file: str, reason: str) -> str:
    """The workflow command for a file that could not be validated."""
    return f"::error file={_property(file)},title=aurep::{_message(reason)}\n"


def summary(check: Check) -> str:
    """A check in a line: what was measured, what is allowed, and its hint."""
    allowed = f", allowed {figure(check.allowed)}" if check.allowed is not None else ""
    return f"{check.name}: measured {figure(check.measured)}{allowed}. {check.hint}".strip()


def _xml(text: str) -> str:
    """XML 1.0 has no control characters, which a node's name may hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
