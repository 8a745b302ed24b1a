"""The Triton kernels without a GPU: their arithmetic under Triton's interpreter; that Triton compiles them for CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton, whose interpreter runs the kernels, is not installed")
HERE = Path(__file__).parent

# Triton decides on import whether it interprets, so each way needs its own process.
_COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from aurep.kernels import cuda_programs as programs

SIZES = dict(N="i32", C="i32", P="i32", stride_c="i32", stride_p="i32", chunk="i32")
TILE = dict(BLOCK_C=64, BLOCK_P=16)
T = "*bf16"

def build(program, pointers, **constants):
    types = {name: pointers.get(name, SIZES.get(name, "*fp32")) for name in program.arg_names}
    signature = {name: "constexpr" if name in constants else kind for name, kind in types.items()}
    built = compile(ASTSource(fn=program, signature=signature, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    assert len(built.asm["cubin"]) > 0

for norms, residual, terms, per_element in ((0, False, 3, False), (2, True, 2, True)):
    variant = dict(NORMS=norms, RESIDUAL=residual, TERMS=terms, PER_ELEMENT=per_element, **TILE)
    build(programs.forward, dict(x=T, residual=T, mask="*u8", y=T), **variant)
    build(programs.backward, dict(g=T, x=T, residual=T, mask="*u8", du=T), **variant, SUMS=(3, 5, 6)[norms])
build(programs.statistics, dict(x=T), **TILE)
build(programs.norm_input, dict(du=T, x=T, dx=T), **TILE)
counts = dict.fromkeys(["elements", "columns", "chunks", "rows", "alpha_programs"], "i32")
build(programs.finish_sums, counts, BLOCK=1024, ROWS=64)
build(programs.merge_statistics, dict(C="i32", rows="i32", total="fp32"), BLOCK_C=16, ROWS=64)
"""


def run(command: list[str], **environment: str) -> None:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_DEFAULT_FP_FUSION": "1", **environment}
    done = subprocess.run([sys.executable, *command], env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-10000:]


def test_arithmetic_under_the_interpreter() -> None:
    run(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted.py")], TRITON_INTERPRET="1")


def test_every_program_compiles_for_cuda(tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text(_COMPILE)
    run([str(tmp_path / "build.py")], TRITON_CACHE_DIR=str(tmp_path / "cache"))
