"""What a search step costs beside a plain ReLU step: time, and memory saved for backward.

    OMP_NUM_THREADS=1 python benchmarks/step_time.py                                     # CPU, ResNet-18, batch 32
    OMP_NUM_THREADS=1 python benchmarks/step_time.py --model resnet20 --batch 128 --name step_time_cpu_bf16_resnet20
    python benchmarks/step_time.py --device cuda --batch 512                             # GPU
    python benchmarks/step_time.py --official PATH    # beside it: the hybrid module of github.com/HarveyP123/AutoReP

For 32x32 images, full width. A step is the engine's own: forward, loss, backward, AdamW, mask update; the student's as
by default, with normalised polynomials and the range penalty, unless it says "plain coefficients". Finetuning has its
masks frozen at the budget and its teacher as a run prepares it. All variants run in one process, one step of each in
turn, so that whatever else the machine does hits all alike; the figure is the median of each step's time over that of
the plain step of the same round, in channels_last, the layout that aurep trains in. Writes
benchmarks/results/step_time_DEVICE_PRECISION.{json,md}, or NAME.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from provenance import RESULTS, markdown_table, provenance
from torch import Tensor, nn

import aurep
from aurep.kernels import describe, using
from aurep.models import build_model
from aurep.search import check_options, policy_class
from aurep.search.masks import keep_top
from aurep.surgery import folded, hybrid_sites, normalise_polynomials
from aurep.training.config import Config, check_config
from aurep.training.heap import keep_freed_memory
from aurep.training.losses import student_terms
from aurep.training.optim import make_optimizer
from aurep.training.phase import Phase
from aurep.training.setup import make_fabric
from aurep.training.step import runner, train_step

BUDGET = 12_900
GOALS = {"search, fused": 1.05, "finetuning, fused, KD": 1.35}  # of the plain step in the same layout
PLAIN, DEFAULT = "plain ReLU, channels_last", "plain ReLU, contiguous"


@dataclass
class Variant:
    """One way to train: `step` does a whole step, `saved` says what a forward pass keeps, in bytes."""

    step: Callable[[], None]
    saved: int
    times: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--model", choices=("resnet18", "resnet20"), default="resnet18")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, help="of the first stage; default the network's own")
    parser.add_argument("--official", type=Path, help="a checkout of the official AutoReP code")
    parser.add_argument("--compile", action="store_true", help="also the search step under torch.compile")
    parser.add_argument("--name", help="of the result files; default step_time_DEVICE_PRECISION")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    variants = make_variants(arguments)
    measure(variants, arguments.rounds, arguments.device)
    report(variants, arguments)


def make_variants(arguments: argparse.Namespace) -> dict[str, Variant]:
    kernels = "compiled" if arguments.device == "cpu" else "auto"
    bench = Bench(arguments)
    variants = {
        PLAIN: bench.plain(),
        f"{PLAIN}, KD": bench.plain(teach=True),
        "search, eager": bench.student("eager"),
        "search": bench.student(kernels),
        "search, fused": bench.student(kernels, fuse=True),
        "search, fused, plain coefficients": bench.student(kernels, fuse=True, normalise=False),
        "finetuning, eager, KD": bench.student("eager", teach=True, searching=False),
        "finetuning, fused, KD": bench.student(kernels, fuse=True, teach=True, searching=False),
    }
    if arguments.device == "cpu":
        variants = {DEFAULT: Bench(arguments, torch.contiguous_format).plain(), **variants}
    if arguments.compile:
        variants["search, torch.compile"] = bench.student("auto", compiler="default")
    if arguments.official:
        variants["official AutoReP"] = bench.official(arguments.official)
        variants["official AutoReP, KD as published"] = bench.official(arguments.official, teach=True)
    return variants


class Bench:
    """Everything the variants share: one batch, one set of first weights."""

    def __init__(self, arguments: argparse.Namespace, layout: torch.memory_format = torch.channels_last) -> None:
        self.arguments, self.layout = arguments, layout
        torch.manual_seed(0)
        self.x = torch.randn(arguments.batch, 3, 32, 32, device=arguments.device).contiguous(memory_format=self.layout)
        self.y = torch.randint(10, (arguments.batch,), device=arguments.device)
        self.example = torch.zeros(1, 3, 32, 32)

    def network(self) -> nn.Module:
        torch.manual_seed(1)
        return build_model(self.arguments.model, num_classes=10, width=self.arguments.width)

    def config(self, *, teach: bool = False, normalise: bool = True, **train: Any) -> Config:
        search: dict[str, Any] = {"budget": BUDGET, "kd_weight": float(teach), "normalise": normalise}
        search |= {} if normalise else {"range_weight": 0.0}
        train = {"device": self.arguments.device, "precision": self.arguments.precision, **train}
        return check_config({"train": train, "search": search})

    def plain(self, teach: bool = False) -> Variant:
        return self._variant(self.network(), self.config(teach=teach, kernels="eager", fuse=False), teach)

    def student(
        self,
        kernels: str,
        *,
        teach: bool = False,
        searching: bool = True,
        fuse: bool = False,
        compiler: str = "no",
        normalise: bool = True,
    ) -> Variant:
        """In the search, or in finetuning: masks frozen at the budget."""
        model = aurep.prepare(self.network(), self.example)
        if normalise:
            normalise_polynomials(model, [self.x.cpu()])
        if not searching:
            sites = hybrid_sites(model)
            keep_top(sites, [site.alpha.detach() for site in sites], BUDGET)
        config = self.config(teach=teach, normalise=normalise, kernels=kernels, fuse=fuse, compile=compiler)
        return self._variant(model, config, teach, searching)

    def _variant(self, model: nn.Module, config: Config, teach: bool, searching: bool = True) -> Variant:
        fabric = make_fabric(config)
        place = {"device": fabric.device, "memory_format": self.layout}
        model = model.train().to(**place)
        teacher = self.network().eval().requires_grad_(False).to(**place) if teach else None
        if teacher is not None and self.arguments.precision == "bf16" and hybrid_sites(model):
            teacher = folded(teacher)  # as runs have it
        sites, policy, groups = hybrid_sites(model), None, []
        for site in sites:
            site.alpha.requires_grad_(searching)
        if sites and searching:
            policy = policy_class("autorep")(sites, BUDGET, check_options("autorep", {}), 0, steps=10_000)
            policy.start()
            groups = policy.parameter_groups()
        terms = student_terms(config.search, sites, []) if sites else []
        phase = Phase("search", model, config.search, teacher, policy, terms)
        optimizer = make_optimizer(model, config.search, groups)
        running, optimizer = fabric.setup(runner(model, config.train, fabric.world_size), optimizer)

        def step() -> None:
            with using(config.train.kernels):
                train_step(fabric, phase, running, optimizer, self.x, self.y)
                if policy:
                    policy.after_step(0.5)

        with using(config.train.kernels):
            saved = saved_bytes(lambda: running(self.x), model) if config.train.compile == "no" else 0
        return Variant(step, saved, [])

    def official(self, path: Path, teach: bool = False) -> Variant:
        """One shared module of theirs for every ReLU, as in their networks. Their teacher runs with gradients."""
        model = self.network()
        shared = official_activation(path)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.ReLU):
                    setattr(parent, name, shared)
        model(self.example)  # its first forward makes the parameters
        shared.init = 0
        variant = self._variant(model, self.config(kernels="eager", fuse=False), teach=False)
        if not teach:
            return variant
        teacher = self.network().eval().to(device=self.arguments.device, memory_format=self.layout)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3)

        def step() -> None:
            with torch.autocast(self.arguments.device, torch.bfloat16, self.arguments.precision == "bf16"):
                logits, taught = model(self.x), teacher(self.x)
            loss = nn.functional.cross_entropy(logits.float(), self.y)
            loss = loss + 16 * nn.functional.kl_div(
                (logits.float() / 4).log_softmax(1), (taught.float() / 4).softmax(1), reduction="batchmean"
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return Variant(step, saved_bytes(lambda: (model(self.x), teacher(self.x)), model, teacher), [])


def official_activation(path: Path) -> Any:
    from aurep.torchvision import import_torchvision

    import_torchvision()  # their module imports it
    sys.path.insert(0, str(path.resolve()))
    from models_util.model_spReLU_relay import ReLU_masked_dapa_relay

    options = {"scale_x1": 1, "scale_x2": 0.1, "clip_x2": 1, "clip_x2_bool": False, "var_min": 0.04}
    return ReLU_masked_dapa_relay(SimpleNamespace(threshold=0.003, degree=2, freezeact=False, **options))


def saved_bytes(forward: Callable[[], Any], *models: nn.Module) -> int:
    """Bytes that autograd keeps for backward, each storage once, parameters and buffers aside."""
    own = {t.untyped_storage().data_ptr() for model in models for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        outputs = forward()
    del outputs
    return sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in own)


def clock(device: str) -> Callable[[], float]:
    """On one CPU thread its own time, which waiting for other processes adds nothing to; else the wall's."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def measure(variants: dict[str, Variant], rounds: int, device: str) -> None:
    now = clock(device)
    for number in range(rounds + 2):
        for variant in variants.values():
            synchronise(device)
            started = now()
            variant.step()
            synchronise(device)
            if number >= 2:  # the first two allocate, and build what is built on first use
                variant.times.append(now() - started)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def report(variants: dict[str, Variant], arguments: argparse.Namespace) -> None:
    plain = variants[PLAIN]
    rows = []
    for name, variant in variants.items():
        ratios = [a / b for a, b in zip(variant.times, plain.times, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        rows.append(
            {
                "variant": name,
                "milliseconds": 1e3 * statistics.median(variant.times),
                "ratio": statistics.median(ratios),
                "quartiles": [low, high],
                "goal": GOALS.get(name),
                "saved_mib": variant.saved / 2**20,
                "saved_ratio": variant.saved / plain.saved,
            }
        )
    settings = {k: v for k, v in vars(arguments).items() if k in ("model", "batch", "precision", "rounds", "width")}
    settings |= {"threads": torch.get_num_threads(), "budget": BUDGET, "kernels": describe()}
    facts = {**provenance(), "settings": settings, "load": os.getloadavg()[1], "rows": rows}
    name = arguments.name or f"step_time_{arguments.device}_{arguments.precision}"
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    text = page(rows, facts, arguments)
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def page(rows: list[dict[str, Any]], facts: dict[str, Any], arguments: argparse.Namespace) -> str:
    table = markdown_table(
        ("step", "median ms", "ratio to plain", "quartiles", "goal", "saved MiB", "ratio to plain"),
        [
            (
                row["variant"],
                f"{row['milliseconds']:.1f}",
                f"{row['ratio']:.3f}",
                " to ".join(f"{quartile:.3f}" for quartile in row["quartiles"]),
                "" if row["goal"] is None else f"<= {row['goal']:.2f}",
                f"{row['saved_mib']:.0f}" if row["saved_mib"] else "",
                f"{row['saved_ratio']:.3f}" if row["saved_mib"] else "",
            )
            for row in rows
        ],
    )
    head = f"# A student's step beside a plain ReLU step, {arguments.device}\n\n"
    head += f"{arguments.model}, 32x32, batch {arguments.batch}, {arguments.precision}, channels_last, "
    head += f"{torch.get_num_threads()} threads, {arguments.rounds} rounds, interleaved. "
    head += f"{facts['hardware']}, {facts['versions']}, {facts['date']}.\n"
    head += f"The machine was shared with other work (load {facts['load']:.1f}): only ratios mean something. "
    head += "Time: the thread's own. " if clock(arguments.device) is time.process_time else ""
    head += f"Ratio: median over rounds of the step's time over that of '{PLAIN}' in the same round. "
    head += "Students have normalised polynomials and the range penalty, as by default, but where they say so. "
    head += "Saved: what autograd keeps for backward, parameters and buffers aside.\n\n"
    return head + table


if __name__ == "__main__":
    main()
