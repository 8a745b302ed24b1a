"""Python environments of the frameworks, each made once, in this user's cache folder.

A framework wants versions that aurep cannot share, so it gets its own virtual environment, from pinned packages. An
environment is usable once its marker is there, which is written last: a set-up that was stopped is started afresh. A
lock keeps two set-ups apart. pip finds packages as it is configured on this machine (its own settings and PIP_
variables hold).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from aurep.errors import AurepError
from aurep.files import write_text
from aurep.frameworks import Framework, Parties

VARIABLE = "AUREP_ENVIRONMENTS"
_MARKER = "aurep-ready.json"
_LOCK_SECONDS = 3600  # the longest that another set-up may reasonably take


class CannotInstallError(AurepError):
    """The framework cannot be had on this machine: no wheel for it, no Python for it, or no way to the packages."""


def environments() -> Path:
    """`$AUREP_ENVIRONMENTS`, or a folder in this user's cache."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("aurep")) / "environments"


def environment(framework: Framework) -> Path:
    """Where the framework's environment lies; its name changes with the pins."""
    pins = "\n".join(_pins(framework.require_parties()))
    return environments() / f"{framework.name}-{hashlib.sha256(pins.encode()).hexdigest()[:10]}"


def _pins(parties: Parties) -> tuple[str, ...]:
    return (*parties.requirements, *parties.alone)


def find_python(framework: Framework, given: Path | None = None) -> Path:
    """The interpreter to run the framework with: `given`, or that of the environment that `setup` made.

    Raises:
        AurepError: it is not there, or lacks the framework.
    """
    if given is not None:
        check_python(framework, given)
        return given
    folder = environment(framework)
    if not (folder / _MARKER).is_file():
        raise AurepError(
            f"{framework.name} has no environment yet in {environments()}; make it with `aurep handoff --setup "
            f"{framework.name}`, or name a Python that has it with --python."
        )
    return _interpreter(folder)


def check_python(framework: Framework, python: Path) -> None:
    """Raise AurepError unless `python` runs and has the framework's modules."""
    modules = framework.require_parties().modules
    names = ", ".join(modules)
    code = f"import importlib.util as u; print([m for m in {modules!r} if u.find_spec(m) is None])"
    try:
        run = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, env=clean_environ())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AurepError(f"{python} does not run ({error}); give a Python interpreter that has {names}.") from None
    if run.returncode or run.stdout.strip() != "[]":
        lacking = run.stdout.strip() or run.stderr.strip()[-200:]
        raise AurepError(f"{python} lacks what {framework.name} needs ({lacking}); give a Python that has {names}.")


def setup(framework: Framework, say: Callable[[str], None] = lambda line: None) -> Path:
    """Make the framework's environment unless it is there; returns its interpreter. `say` gets pip's lines.

    Raises:
        CannotInstallError: it cannot be installed on this machine, with pip's own reason.
    """
    folder = environment(framework)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(folder.name + ".lock"), timeout=_LOCK_SECONDS):
            if not (folder / _MARKER).is_file():
                _make(framework, folder, say)
    except Timeout:
        raise AurepError(f"another set-up of {framework.name} has held {folder} for an hour; end it first.") from None
    return _interpreter(folder)


def _make(framework: Framework, folder: Path, say: Callable[[str], None]) -> None:
    parties = framework.require_parties()
    base = _base_python(framework)
    shutil.rmtree(folder, ignore_errors=True)  # what a stopped set-up left
    say(f"making an environment for {framework.name} with {base}")
    _call([base, "-m", "venv", str(folder)], framework, say)
    pip = [
        str(_interpreter(folder)),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
    ]
    _call([*pip, "--only-binary=:all:", *parties.requirements], framework, say)
    if parties.alone:
        _call([*pip, "--no-deps", *parties.alone], framework, say)
    check_python(framework, _interpreter(folder))
    made = {"framework": framework.name, "packages": _pins(parties)}
    write_text(folder / _MARKER, json.dumps(made, indent=2) + "\n")


def _base_python(framework: Framework) -> str:
    """This interpreter if there are wheels for it, otherwise one on the path that there are wheels for."""
    pythons = framework.require_parties().pythons
    if sys.version_info[:2] in [(3, minor) for minor in pythons]:
        return sys.executable
    for minor in sorted(pythons, reverse=True):
        found = shutil.which(f"python3.{minor}")
        if found and _is_python(found, minor):
            return found
    wanted = " or ".join(f"3.{minor}" for minor in pythons)
    raise CannotInstallError(
        f"{framework.name} needs Python {wanted}, this is {sys.version_info[0]}.{sys.version_info[1]}, and no other is "
        "on the path; install one, or name a Python that has the framework with --python."
    )


def _is_python(command: str, minor: int) -> bool:
    """Whether `command` runs and is what its name says: a version manager's stand-in may refuse."""
    code = f"import sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return subprocess.run([command, "-c", code], capture_output=True, check=False).returncode == 0


def _call(command: list[str], framework: Framework, say: Callable[[str], None]) -> None:
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environ()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            say(lines[-1])
    if process.returncode:
        reasons = [line for line in lines if line.startswith("ERROR:")] or lines
        raise CannotInstallError(
            f"{framework.name} cannot be installed here ({' '.join(reasons[-2:])[:400]}); see whether its packages "
            "have wheels for this platform and whether pip reaches them, or name a Python that has it with --python."
        )


def clean_environ() -> dict[str, str]:
    """This process's environment without what would lead another interpreter to aurep's own packages."""
    foreign = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in foreign}


def _interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"
