"""Two processes train what one process trains with the whole batch: same masks, and weights up to float rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.toolkit.training.tiny import RECIPE

# One epoch of each: rounding differences grow with every step, and at last move an indicator past its neighbour. SGD,
# since Adam's first steps are of the rate's size whatever the gradient's. No range penalty: it looks at the first
# quarter of every process's images, and those are other images than the first quarter of one process's.
_GENTLE = 'epochs = 1\noptimizer = "sgd"\nlr = 1e-3\ncoefficient_lr = 1e-5\nrange_weight = 0.0'
_RECIPE = RECIPE.replace("[baseline]\nepochs = 2", "[baseline]\nepochs = 1").replace("epochs = 2", _GENTLE)
_SCRIPT = """
import sys
from pathlib import Path
from aurep.training import train
from aurep.training.config import parse_config

train(parse_config(Path(sys.argv[1]).read_text()), sys.argv[2])
"""
# Sums over half batches are rounded elsewhere: 1e-7 relative per step, which batch norm and the baseline's rate of 0.1
# amplify over some 75 steps.
_DRIFT = 1e-3


@pytest.mark.parametrize("option", ["fuse = false", "fuse = true", "fuse = true\ncheckpoint_activations = true"])
def test_two_processes_equal_one_with_the_doubled_batch(option: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    recipe = _RECIPE.replace("[train]", f'[train]\nprecision = "fp32"\n{option}')
    (tmp_path / "tiny.toml").write_text(recipe)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, "script.py", "tiny.toml", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300, capture_output=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        if name.endswith("mask"):
            assert torch.equal(one[name], two[name]), name
        else:
            torch.testing.assert_close(two[name], one[name], rtol=_DRIFT, atol=_DRIFT, msg=name)
