"""Images per second of baseline, search and finetune steps, and their share of the convolutions' roofline.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py [--model resnet20]
    python benchmarks/throughput.py --device cuda --batch 512

For 32x32 images, with the student as it is by default, fused, beside its teacher. The roofline here is what this
machine reaches in the network's convolutions alone: each one's forward and backward at its own shape, in the layout and
the precision of the run, one after the other. A step that cost nothing beside them would stand at 100 %; the teacher's
forward counts as work that a step with KD has to do.
Writes benchmarks/results/throughput_DEVICE_PRECISION.{json,md}, or NAME.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from typing import Any

import torch
from provenance import RESULTS, markdown_table, provenance
from step_time import Bench, clock, synchronise
from torch import Tensor, nn

from aurep.training.heap import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--model", choices=("resnet18", "resnet20"), default="resnet18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, help="of the first stage; default the network's own")
    parser.add_argument("--name", help="of the result files; default throughput_DEVICE_PRECISION")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    bench = Bench(arguments)
    kernels = "compiled" if arguments.device == "cpu" else "auto"
    steps = {
        "baseline": bench.plain().step,
        "search": bench.student(kernels, fuse=True, teach=True).step,
        "finetune": bench.student(kernels, fuse=True, teach=True, searching=False).step,
    }
    times: dict[str, list[float]] = {name: [] for name in (*steps, "convolutions", "teacher's convolutions")}
    forward, both = convolutions(bench)
    for number in range(arguments.rounds + 2):
        rows = {**steps, "convolutions": both, "teacher's convolutions": forward}
        for name, work in rows.items():
            seconds = timed(work, arguments.device)
            if number >= 2:
                times[name].append(seconds)
    report({name: statistics.median(values) for name, values in times.items()}, arguments)


def timed(work: Callable[[], Any], device: str) -> float:
    now = clock(device)
    synchronise(device)
    started = now()
    work()
    synchronise(device)
    return now() - started


def convolutions(bench: Bench) -> tuple[Callable[[], None], Callable[[], None]]:
    """All convolutions of the network one after the other: forward only, and forward with backward."""
    device, precision = bench.arguments.device, bench.arguments.precision
    network = bench.network().to(device=device, memory_format=bench.layout)
    calls: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        x = inputs[0].detach().to(dtype).requires_grad_(inputs[0].shape[1] > 3)  # nobody wants the images' gradient
        calls.append((module, x, torch.randn_like(output, dtype=dtype)))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network(bench.x)
    for hook in hooks:
        hook.remove()
    network.to(dtype)

    @torch.no_grad()
    def forward() -> None:
        for module, x, _ in calls:
            module(x)

    def both() -> None:
        for module, x, gradient in calls:
            wanted = [t for t in (x, module.weight) if t.requires_grad]
            torch.autograd.grad(module(x), wanted, gradient)

    return forward, both


def report(seconds: dict[str, float], arguments: argparse.Namespace) -> None:
    rows = []
    for name in ("baseline", "search", "finetune"):
        ideal = seconds["convolutions"] + (seconds["teacher's convolutions"] if name != "baseline" else 0.0)
        rows.append(
            {
                "phase": name,
                "milliseconds": 1e3 * seconds[name],
                "images_per_second": arguments.batch / seconds[name],
                "share_of_baseline": seconds["baseline"] / seconds[name],
                "roofline_milliseconds": 1e3 * ideal,
                "share_of_roofline": ideal / seconds[name],
            }
        )
    settings = {k: v for k, v in vars(arguments).items() if k not in ("device", "name")}
    settings |= {"threads": torch.get_num_threads()}
    facts = {**provenance(), "settings": settings, "load": os.getloadavg()[1], "rows": rows}
    name = arguments.name or f"throughput_{arguments.device}_{arguments.precision}"
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = f"# Training throughput, {arguments.model}, 32x32, {arguments.device}\n\n"
    text += f"Batch {arguments.batch}, {arguments.precision}, channels_last, {torch.get_num_threads()} threads, "
    text += f"medians of {arguments.rounds} interleaved rounds. "
    text += "" if arguments.device == "cuda" else "Time: the thread's own where there is one. "
    text += f"{facts['hardware']}, {facts['versions']}, {facts['date']}.\n"
    text += f"The machine was shared with other work (load {facts['load']:.1f}): only the shares mean something.\n"
    text += "Roofline: the network's convolutions alone, timed here; with the teacher's in search and finetune.\n\n"
    text += markdown_table(
        ("phase", "ms per step", "images/s", "of baseline's", "convolutions alone, ms", "share of roofline"),
        [
            (
                row["phase"],
                f"{row['milliseconds']:.1f}",
                f"{row['images_per_second']:,.0f}",
                f"{row['share_of_baseline']:.0%}",
                f"{row['roofline_milliseconds']:.1f}",
                f"{row['share_of_roofline']:.0%}",
            )
            for row in rows
        ],
    )
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
