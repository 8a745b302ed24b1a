"""baseline -> search -> finetune -> one look at the test set -> the files of a run.

Each phase starts from what the one before left: the baseline is the frozen teacher of both others; the search starts
from the teacher's weights with fitted polynomials at every site, all elements kept; finetuning from the search's end.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from aurep.budget import ReluBudget, parse_budget
from aurep.data import ImageData
from aurep.data.loader import Loader
from aurep.errors import AurepError
from aurep.results import RunResult
from aurep.search import Policy, check_options, choose_sites, make_policy
from aurep.surgery import (
    add_narrower,
    fit_polynomials,
    folded,
    hybrid_sites,
    measure_statistics,
    narrower,
    normalise_like,
    normalise_polynomials,
    relu_sites,
    tap_activations,
)
from aurep.training.arithmetic import settle
from aurep.training.checkpoint import RunFolder, load_weights, portable, read_weights, save_weights
from aurep.training.collapse import LargestInputs, Standard, refuse_at_chance, standard
from aurep.training.config import Config, StudentConfig
from aurep.training.engine import Engine, derive, evaluate
from aurep.training.finishing import measure, write_run
from aurep.training.forecast import forecast
from aurep.training.loaders import LAYOUT, evaluation_loader, training_loader
from aurep.training.losses import student_terms
from aurep.training.own_weights import read_teacher
from aurep.training.phase import Phase
from aurep.training.progress import Progress
from aurep.training.setup import build_network, make_fabric, prepare_student, read_data
from aurep.training.trackers import Trackers

PHASES = ("baseline", "search", "finetune", "done")


@dataclass
class Pipeline:
    """One run, from a checked configuration to its files."""

    config: Config
    folder: RunFolder
    progress: Progress
    fabric: Fabric = field(init=False)
    data: ImageData = field(init=False)
    own_teacher: dict[str, Tensor] | None = field(init=False)  # weights that the user brought along

    def __post_init__(self) -> None:
        self.config = settle(self.config, self.progress.say)
        self.fabric = make_fabric(self.config)
        self.progress.say(f"reading {self.config.data.name}")
        self.data = read_data(self.config, self.fabric)
        self.options = check_options(self.config.search.method, self.config.search.options)
        blank = prepare_student(self.config, self._network(), self.example)
        add_narrower(blank, self.example, self.config.search.width_multipliers)  # refuses one that cannot be narrowed
        self.total = ReluBudget.of(relu_sites(blank)).relu_total
        try:
            self.budget = parse_budget(self.config.search.budget, self.total)
        except AurepError as error:
            raise AurepError(f"search.budget: {error}") from None
        self._loader("train", "baseline")  # refuses a batch size or padding that the data cannot give
        self._named(blank)  # refuses names that are none of its sites
        self._policy(blank)  # refuses options that do not fit the model
        self.own_teacher = self._own_teacher()

    @property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.data.image_shape)

    def _network(self) -> nn.Module:
        network = build_network(self.config, self.data.image_shape, len(self.data.classes))
        return network.to(memory_format=LAYOUT)  # type: ignore[call-overload, no-any-return]  # torch leaves it out

    def run(self, resume: bool) -> RunResult:
        engine, weights, state = self._engine(resume)
        with engine.trackers:
            return self._run(engine, weights, state)

    def _run(self, engine: Engine, weights: dict[str, Tensor] | None, state: dict[str, Any] | None) -> RunResult:
        begun = PHASES.index(state["phase"]) if state else 0
        self._announce(begun, state)
        teacher = self._baseline(engine, weights if begun == 0 else None, state if begun == 0 else None)
        student = prepare_student(self.config, copy.deepcopy(teacher).cpu(), self.example)
        student.to(self.fabric.device)
        kinds = Counter(site.replaces for site in hybrid_sites(student))
        self.progress.say("   sites: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
        add_narrower(student, self.example.to(self.fabric.device), self.config.search.width_multipliers)
        held_to = self._standard(student)
        if held_to.warning:
            self.progress.say(f"Warning: {held_to.warning}")
        if begun > 0 and weights is not None:
            normalise_like(student, weights)
            load_weights(student, weights, self.folder.weights)
        if begun <= 1:
            self._search(engine, teacher, student, held_to, state if begun == 1 else None)
        if begun <= 2:
            self._finetune(engine, teacher, student, held_to, state if begun == 2 else None)
        for site in hybrid_sites(student):
            site.settle()
        return self._finish(engine, teacher, student)

    def _announce(self, begun: int, state: dict[str, Any] | None) -> None:
        """Say how long what lies ahead will take, from the phase numbered `begun` on."""
        if self.progress.console is None:
            return
        ahead = dict.fromkeys(PHASES[:-1], 0)
        for phase in PHASES[begun:-1]:
            taught = phase == "baseline" and (self.own_teacher is not None or self.folder.teacher.exists())
            epochs = 0 if taught else int(getattr(self.config, phase).epochs)
            ahead[phase] = epochs * len(self._loader("train", phase))
        if state is not None and begun < len(PHASES) - 1:
            counters, phase = state["counters"], PHASES[begun]
            gone = counters["epoch"] * len(self._loader("train", phase)) + counters["step"]
            ahead[phase] = max(0, ahead[phase] - gone)
        x, _ = next(iter(self._loader("train", "baseline").epoch(0)))
        with torch.random.fork_rng():
            plain = self._network().to(self.fabric.device)
            student = prepare_student(self.config, copy.deepcopy(plain).cpu(), self.example).to(self.fabric.device)
        if self.config.search.normalise:
            normalise_polynomials(student, [x])
        expected = forecast(plain, student, x, self.fabric, self.config.train)
        self.progress.plan(ahead, expected.seconds)
        if any(ahead.values()):
            self.progress.say(expected.sentence(ahead, self.fabric.device.type.upper()))

    def _standard(self, student: nn.Module) -> Standard:
        """Of a student that still computes what its teacher does."""
        split = "val" if len(self.data.x_val) else "train"
        with LargestInputs(hybrid_sites(student)) as largest, self.fabric.autocast():
            accuracy = evaluate(student, self._loader(split))
        labels = torch.as_tensor(self.data.y_val if split == "val" else self.data.y_train)
        return self.fabric.broadcast(standard(accuracy, labels, largest))

    def run_baseline(self) -> None:
        """Train the teacher only, from its checkpoint where there is one."""
        engine, weights, state = self._engine(resume=True)
        with engine.trackers:
            self._baseline(engine, weights, state)

    def _engine(self, resume: bool) -> tuple[Engine, dict[str, Tensor] | None, dict[str, Any] | None]:
        """The engine, with the checkpoint's weights and state where there is one to go on from."""
        names = self.config.train.log if self.fabric.is_global_zero else ()
        trackers = Trackers(names, self.folder.path, self.config)
        engine = Engine(self.fabric, self.folder, self.config.train, self.progress, trackers)
        if not (resume and self.folder.state.exists()):
            return engine, None, None
        weights, state = self.folder.load_checkpoint()
        engine.rows = state["rows"]
        return engine, weights, state

    def _baseline(self, engine: Engine, weights: dict[str, Tensor] | None, state: dict[str, Any] | None) -> nn.Module:
        config = self.config.baseline
        torch.manual_seed(derive(self.config.train.seed, "init"))
        model = self._network().to(self.fabric.device)
        if self.fabric.broadcast(self.folder.teacher.exists()):  # a rank that is late may find one just written
            load_weights(model, read_weights(self.folder.teacher), self.folder.teacher)
        elif self.own_teacher is not None:
            model.load_state_dict(self.own_teacher)
            self._keep_teacher(model)
        else:
            if weights is not None:
                load_weights(model, weights, self.folder.weights)
            phase = Phase("baseline", model, config, choose_best=True)
            phase.measure = self._measure_statistics if config.ema else None
            engine.fit(phase, self._loader("train", "baseline"), self._loader("val"), state)
            self._keep_teacher(model)
        return model.requires_grad_(False).eval()

    def _own_teacher(self) -> dict[str, Tensor] | None:
        """The weights that `baseline.checkpoint` names, measured; refused where they classify no better than chance."""
        source = self.config.baseline.checkpoint
        if source is None or self.folder.teacher.exists():
            return None
        model = self._network().to(self.fabric.device)
        model.load_state_dict(read_teacher(source, model))
        with self.fabric.autocast():
            test = evaluate(model, self._loader("test"))
            val = evaluate(model, self._loader("val")) if len(self.data.x_val) else None
        shown = "" if val is None else f"{val:.2f} % of the validation images and "
        self.progress.say(f"teacher {source}: {shown}{test:.2f} % of the test images right")
        if not Path(source).is_dir():  # a run's teacher was trained on these very images
            split = (test, self.data.y_test) if val is None else (val, self.data.y_val)
            refuse_at_chance(source, split[0], torch.as_tensor(split[1]))
        return portable(model)

    def _keep_teacher(self, model: nn.Module) -> None:
        if self.fabric.is_global_zero:
            save_weights(self.folder.teacher, portable(model))
        self.fabric.barrier()
        load_weights(model, read_weights(self.folder.teacher), self.folder.teacher)  # ranks drift in batch statistics

    def _search(
        self, engine: Engine, teacher: nn.Module, student: nn.Module, held_to: Standard, state: dict[str, Any] | None
    ) -> None:
        config = self.config.search
        student.requires_grad_(True)
        if state is None:
            self._fit_polynomials(student)
        chosen = self._chosen(student, state)
        self._normalise(student, config)
        policy = self._policy(student, chosen)
        taught, activations = self._watched(teacher, student, config, policy.uses_teacher)
        if policy.uses_teacher and taught is not None:
            policy.watch(taught, activations)
        phase = Phase("search", student, config, taught, policy, standard=held_to)
        self._fit(engine, phase, activations, state)

    def _fit_polynomials(self, student: nn.Module) -> None:
        """Fit the polynomials on the first training images, unaugmented: on every rank what the first one finds."""
        config, loader = self.config.search, self._loader("train")
        fit_polynomials(student, loader.epoch(0), -(-config.calibration // loader.batch_size), config.fit)
        for site in hybrid_sites(student):
            if site.coefficients is not None:
                site.set_coefficients(self.fabric.broadcast(site.coefficients.detach()))

    def _named(self, student: nn.Module) -> list[int] | None:
        """The sites that the configuration names."""
        names, known = self.config.search.sites, [site.site for site in hybrid_sites(student)]
        if names is None:
            return None
        if unknown := [name for name in names if name not in known]:
            raise AurepError(f"search.sites: the model has no site {unknown[0]!r}; its sites are {', '.join(known)}.")
        return sorted({known.index(name) for name in names})

    def _chosen(self, student: nn.Module, state: dict[str, Any] | None) -> list[int] | None:
        """The sites that a search keeps ReLUs at, where it is not to keep them at all."""
        most, sites, loader = self.config.search.max_sites, hybrid_sites(student), self._loader("train")
        if self.config.search.sites is not None:
            return self._named(student)
        if most is None or most >= len(sites):
            return None
        if state is not None and "chosen" in state["policy"]:
            return list(state["policy"]["chosen"])
        size = -(-self.config.train.batch_size // self.config.train.accumulate)  # what gradients have memory for
        batches = islice(loader.epoch(0), -(-self.config.search.calibration // loader.batch_size))
        parts = (part for x, y in batches for part in zip(x.split(size), y.split(size), strict=True))
        chosen = choose_sites(student, sites, parts, self.budget, most)
        names = ", ".join(sites[k].site for k in chosen)
        self.progress.say(f"   ReLUs stay at {len(chosen)} of {len(sites)} sites{names and ': '}{names}")
        return self.fabric.broadcast(chosen)

    def _normalise(self, student: nn.Module, config: StudentConfig) -> None:
        """Polynomials as `config` trains them: over normalised powers, by the first training images, or plain."""
        sites = hybrid_sites(student)
        if not config.normalise or narrower(student):  # narrower networks take slices of plain coefficients
            for site in sites:
                site.settle()
        elif not any(site.factors is not None for site in sites):
            loader = self._loader("train")
            normalise_polynomials(student, loader.epoch(0), -(-self.config.search.calibration // loader.batch_size))
            for site in sites:
                if site.statistics is not None:
                    site.normalise(self.fabric.broadcast(site.statistics))

    def _measure_statistics(self, model: nn.Module) -> None:
        """Of the first training images, unaugmented: the same on every rank."""
        size = self.config.train.batch_size // self.config.train.accumulate
        batches = (part for x, _ in self._loader("train").epoch(0) for part in x.split(size))
        measure_statistics(model, batches, -(-self.config.search.calibration // size))

    def _finetune(
        self, engine: Engine, teacher: nn.Module, student: nn.Module, held_to: Standard, state: dict[str, Any] | None
    ) -> None:
        student.requires_grad_(True)
        self._normalise(student, self.config.finetune)
        taught, activations = self._watched(teacher, student, self.config.finetune)
        phase = Phase("finetune", student, self.config.finetune, taught, choose_best=True, standard=held_to)
        self._fit(engine, phase, activations, state)

    def _policy(self, student: nn.Module, chosen: list[int] | None = None) -> Policy:
        search, seed, sites = self.config.search, derive(self.config.train.seed, "policy"), hybrid_sites(student)
        steps = search.epochs * len(self._loader("train", "search"))
        return make_policy(search.method, sites, self.budget, self.options, seed, steps=steps, chosen=chosen)

    def _watched(
        self, teacher: nn.Module, student: nn.Module, config: StudentConfig, hooked: bool = False
    ) -> tuple[nn.Module | None, list[nn.Module]]:
        """The teacher that a phase runs, None if it needs none, and its activations to hook if anything wants them."""
        if hooked or config.pram_weight:
            names = [site.site for site in hybrid_sites(student)]
            return tap_activations(teacher, self.config.model.replace, names)
        if not config.kd_weight:
            return None, []
        return folded(teacher) if self.config.train.precision == "bf16" else teacher, []

    def _fit(self, engine: Engine, phase: Phase, activations: list[nn.Module], state: dict[str, Any] | None) -> None:
        assert isinstance(phase.config, StudentConfig)
        phase.narrower = narrower(phase.model)
        networks = [hybrid_sites(phase.model), *(narrow.sites for narrow in phase.narrower)]
        phase.measure = self._measure_statistics if phase.config.ema or phase.config.normalise else None
        phase.terms = [term for sites in networks for term in student_terms(phase.config, sites, activations)]
        engine.fit(phase, self._loader("train", phase.name), self._loader("val"), state)
        for term in phase.terms:
            term.close()

    def _finish(self, engine: Engine, teacher: nn.Module, student: nn.Module) -> RunResult:
        self.progress.close()
        self.progress.speed(engine.rows)
        val = self._loader("val") if len(self.data.x_val) else None
        result = measure(
            self.folder.path,
            self.config,
            self.data,
            (teacher, student),
            (val, self._loader("test")),
            relu_budget=self.budget,
            seconds=sum(row["seconds"] for row in engine.rows),
        )
        if self.fabric.is_global_zero:
            write_run(self.folder, self.config, self.data, student, engine.rows, result)
        engine.trackers.results(engine.rows, result)
        self.fabric.barrier()
        return result

    def _loader(self, split: str, phase: str = "") -> Loader:
        """`split` in order for evaluation, or, for a `phase`, shuffled and augmented, each rank its share."""
        if phase:
            return training_loader(self.config, self.data, split, phase, self.fabric)
        return evaluation_loader(self.config, self.data, split, self.fabric)
