"""Builds `cpu.cpp` and what it includes on first use.

With torch.utils.cpp_extension, which needs a C++ compiler and ninja, into a folder of the user's cache that is named
after all that the machine code depends on: source, torch, compiler, processor. One process builds, others wait; the
library takes its name when it is whole, so that a build that was killed, or another copy of aurep, changes none. Where
it cannot be built `available` is false, `describe` says why, and eager kernels take over.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pooch
import torch
from filelock import FileLock

_FILES = ("cpu.cpp", "cpu_layout.h", "cpu_loops.h", "cpu_parts.h", "cpu_powers.h")
_SOURCES = [Path(__file__).with_name(name) for name in _FILES]
# NaN must stay NaN, so no -ffast-math; these two only free comparisons to become selects.
_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]


def available() -> bool:
    return _build() is None


def must_build() -> bool:
    """Whether `available` has to build first."""
    return _missing() is None and not _library().exists()


def describe() -> str:
    """ "compiled C++", or "eager, since ..."."""
    reason = _build()
    return "compiled C++" if reason is None else f"eager, since {reason}"


@cache
def _build() -> str | None:
    """Load the library, building it where that was not done before. Returns why it cannot be had, or None."""
    reason = _missing()
    if reason is None:
        try:
            with _scripts_on_path():
                _load()
        except Exception as error:  # compilers fail in many ways, and none of them may stop a run
            reason = f"it cannot be built ({str(error).splitlines()[0]})"
    return reason


def _missing() -> str | None:
    """The tool that is wanting, if one is."""
    if platform.system() == "Windows":
        return "the compiled path is not made for Windows"
    with _scripts_on_path():
        if shutil.which(_compiler()) is None:
            return f"no C++ compiler {_compiler()!r} is found"
        return "ninja is not installed" if shutil.which("ninja") is None else None


def _load() -> None:
    library = _library()
    library.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(library.with_name("build.lock")):
        if not library.exists():
            _compile(library)
            return  # compiling loads it
    torch.ops.load_library(library)


def _compile(library: Path) -> None:
    from torch.utils import cpp_extension

    building = library.with_name("building")
    shutil.rmtree(building, ignore_errors=True)  # left by a build that was killed; nobody else is here now
    building.mkdir()
    cpp_extension.load(
        library.stem,
        [str(_SOURCES[0])],
        extra_cflags=[*_FLAGS, *_machine_flags(), "-fopenmp"],
        extra_ldflags=["-fopenmp"],
        build_directory=str(building),
        is_python_module=False,
    )
    (building / library.name).replace(library)
    shutil.rmtree(building, ignore_errors=True)


def _library() -> Path:
    return _folder() / "aurep_cpu.so"


def _folder() -> Path:
    sources = "".join(path.read_text() for path in _SOURCES)
    parts = (sources, torch.__version__, _compiler_version(), platform.machine(), _processor(), " ".join(_FLAGS))
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(pooch.os_cache("aurep")) / "kernels" / key


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@cache
def _compiler_version() -> str:
    return subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=False).stdout


@cache
def _machine_flags() -> tuple[str, ...]:
    """-march=native where the compiler knows it. The build's folder is the processor's own: a home may be shared."""
    test = [_compiler(), "-march=native", "-x", "c++", "-E", os.devnull]
    return ("-march=native",) if subprocess.run(test, capture_output=True, check=False).returncode == 0 else ()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """ninja may be installed beside this Python, in a virtual environment that is not activated."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before
