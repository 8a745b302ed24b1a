"""Two processes under torchrun see different images, and agree on every mask: each step and at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.toolkit.search.test_resume import RECIPE

_SCRIPT = """
import sys
import time
import torch
from pathlib import Path
from torch import distributed as dist
import aurep
from aurep.search import POLICIES
from aurep.surgery import hybrid_sites, narrower
from aurep.training.config import parse_config
from aurep.training import engine
from aurep.training.pipeline import Pipeline

step, seen = engine.train_step, []

def agreeing(fabric, phase, *rest):
    found = step(fabric, phase, *rest)
    seen[:] = [phase.model]
    if phase.policy:
        for site in hybrid_sites(phase.model):
            for mine in (site.mask.int(), site.alpha.detach().clone()):
                low, high = mine.clone(), mine.clone()
                dist.all_reduce(low, op=dist.ReduceOp.MIN)
                dist.all_reduce(high, op=dist.ReduceOp.MAX)
                assert torch.equal(low, high), (phase.policy, site.site)
    return found

engine.train_step = agreeing
folder = Path(sys.argv[1])
recipe = (folder / "tiny.toml").read_text()
aurep.train(parse_config(recipe, "test", ["search.epochs=0"]), folder / "teacher")
for method in POLICIES:
    overrides = [f"baseline.checkpoint='{folder / 'teacher'}'", f"search.method={method}"]
    result = aurep.train(parse_config(recipe, "test", overrides), folder / method)
    counts = [None, None]
    dist.all_gather_object(counts, [site.kept for site in result.sites])
    assert counts[0] == counts[1], method
    assert method == "layerwise" or result.relu_count == 77, method
announce = Pipeline._announce

def late(pipeline, *rest):
    announce(pipeline, *rest)
    time.sleep(2 * dist.get_rank())  # the second rank comes to the teacher when the first has written it

Pipeline._announce = late
overrides = [f"baseline.checkpoint='{folder / 'teacher'}'", "search.method=saliency", "search.max_sites=2"]
result = aurep.train(parse_config(recipe, "test", overrides), folder / "few")
counts = [None, None]
dist.all_gather_object(counts, [site.kept for site in result.sites])
assert counts[0] == counts[1]
assert (result.relu_count, result.relu_sites) == (77, 2)
Pipeline._announce = announce
overrides = [f"baseline.checkpoint='{folder / 'teacher'}'", "search.method=senet", "finetune.epochs=1"]
overrides.append("search.width_multipliers=[0.5, 1.0]")
aurep.train(parse_config(recipe, "test", overrides), folder / "widths")
norms = [m for n in narrower(seen[-1]) for m in n.norms.modules() if isinstance(m, torch.nn.BatchNorm2d)]
assert len(norms) == 12
for mine in [p for m in norms for p in m.parameters()]:
    other = mine.detach().clone()
    dist.broadcast(other, 0)
    assert torch.equal(mine, other)  # gradients of the narrow network's own parameters are shared as well
"""


def test_ranks_agree_on_masks(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_SCRIPT)
    (tmp_path / "tiny.toml").write_text(RECIPE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "script.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-20000:]
