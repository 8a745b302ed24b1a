"""Two processes under torchrun train one network, and one of them says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.toolkit.training.tiny import RECIPE

_SCRIPT = """
import sys
from pathlib import Path
from safetensors.torch import save_file
import torch
import aurep.training.pipeline as pipeline
from aurep.cli import main

out = Path(sys.argv[1])
finish = pipeline.Pipeline._finish

def keep_every_rank_s_masks(self, engine, teacher, student):
    masks = {k: v.to(torch.uint8).contiguous() for k, v in student.state_dict().items() if k.endswith("mask")}
    save_file(masks, out.with_name(f"masks-{self.fabric.global_rank}.safetensors"))
    return finish(self, engine, teacher, student)

pipeline.Pipeline._finish = keep_every_rank_s_masks
main(["train", sys.argv[2], "--out", sys.argv[1]])
"""


def test_two_processes_agree_on_masks_and_meet_the_budget(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ran = subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), str(tmp_path / "run"), str(tmp_path / "tiny.toml")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert [ran.stdout.count(said) for said in ("reading digits", "Run folder:")] == [1, 1]
    first, second = (load_file(tmp_path / f"masks-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum(int(mask.sum()) for mask in first.values()) == 96
