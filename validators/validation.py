"""`validate`: every check that the given material allows, in one report.

It trusts nothing in the file, but a file can crash, hang or blow up what it calls: `entry` has it run in a process of
its own. What is the user's (run, data) is looked for from `home`, the user's working folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from aurep.errors import AurepError
from aurep.frameworks import FRAMEWORKS, FixedPoint, Framework
from aurep.metadata import InputClaim, Metadata, TrainingClaim
from aurep.validators.checks import accuracy
from aurep.validators.checks.accuracy import Bounds, Decided, Reference, check_accuracy, reference_of
from aurep.validators.checks.count import activations, check_comparisons, check_count, read_budget
from aurep.validators.checks.fixed_point import check_fixed_point
from aurep.validators.checks.inputs import Beyond, Eager, asked
from aurep.validators.checks.localise import check_localise
from aurep.validators.checks.parity import check_parity
from aurep.validators.checks.places import check_places, relu_sites
from aurep.validators.checks.ranges import beyond, check_range, comparable, measure, probe
from aurep.validators.checks.rounding import check_rounding
from aurep.validators.checks.sites import check_sites
from aurep.validators.checks.structure import check_structure
from aurep.validators.estimate import count_work, estimate
from aurep.validators.files.reading import Artefact, read
from aurep.validators.files.samples import Samples, eager_bounds, eager_logits, eager_samples, read_samples
from aurep.validators.graph.batch import Walks, model_inputs
from aurep.validators.graph.facts import UncountableError
from aurep.validators.relu_count import ReluCount, count
from aurep.validators.report import Check, Report
from aurep.validators.session import CannotRunError, Session
from aurep.validators.sites.recovery import RecoveredSite, pointwise, recover_sites
from aurep.validators.sites.table import site_rows
from aurep.validators.stages import say, stage

RANGE_IMAGES = 1024  # test images that the sites' ranges are measured on again
SAMPLES = 64  # images of a run that parity is measured on where no bundle brings its own


@dataclass
class _Work:
    """A validation in progress."""

    artefact: Artefact
    run: Path | None
    data_dir: Path | None
    provider: str
    fixed_point: FixedPoint | None
    given_target: str | None
    home: Path
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def model(self) -> onnx.ModelProto:
        return self.artefact.model

    @cached_property
    def walks(self) -> Walks:
        return Walks(self.model)

    @property
    def metadata(self) -> Metadata | None:
        return self.artefact.metadata

    @property
    def target(self) -> str | None:
        """Whose rules hold: the target that was given, or what the file claims."""
        return self.given_target or (self.metadata.target if self.metadata is not None else None)

    @property
    def framework(self) -> Framework | None:
        return FRAMEWORKS.get(self.target or "")

    @property
    def form(self) -> FixedPoint | None:
        """The fixed point to hold the file against: what was given, or the target's."""
        return self.fixed_point or (self.framework.fixed_point if self.framework is not None else None)

    @property
    def input(self) -> InputClaim:
        return self.metadata.input if self.metadata is not None else _input_of(self.model)


def validate(
    path: str | Path,
    *,
    run: str | Path | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    budget: str | int | None = None,
    max_comparisons: str | int | None = None,
    max_sites: int | None = None,
    max_accuracy_drop: float | None = None,
    min_accuracy: float | None = None,
    accuracy_by: Decided = "estimate",
    provider: str = "auto",
    fixed_point: FixedPoint | str | None = None,
    target: str | None = None,
    home: str | Path = ".",
) -> Report:
    """`entry.validate` in this process, which gives the arguments; `home`: the user's working folder."""
    bounds = Bounds(max_accuracy_drop, min_accuracy, accuracy_by)
    form = FixedPoint.parse(fixed_point) if isinstance(fixed_point, str) else fixed_point
    artefact = read(path)
    run_dir, images = (None if each is None else Path(each) for each in (run, data_dir))
    work = _Work(artefact, run_dir, images, provider, form, target, Path(home))
    if artefact.external and artefact.metadata is None:
        work.notes.append("Weights lie in other files beside the model: whoever is handed it needs them too.")
    recovered = recover_sites(work.walks)
    counted = _counted(work.walks, recovered)
    known = counted if isinstance(counted, ReluCount) else None
    total = activations(known, recovered) if known else 0
    allowed = read_budget(budget, total)
    most = read_budget(max_comparisons, total + (known.pooling if known else 0), "max-comparisons")
    say("while checking the claims")
    judged = any(bound is not None for bound in (allowed, most, max_sites, target))
    work.checks.append(check_structure(artefact, known, judged, target))
    work.checks.append(check_count(counted, artefact.metadata, allowed, recovered))
    if most is not None:
        work.checks.append(check_comparisons(counted, most))
    places = check_places(counted, artefact.metadata, max_sites, recovered)
    work.checks.extend([places] if places is not None else [])
    if artefact.metadata is not None:
        work.checks.append(check_sites(recovered, artefact.metadata, work.run))
    used = None
    if known is None:
        work.notes.append("The model was not run, since what it would cost to run is unknown.")
    else:
        used = _run_checks(work, recovered, data, bounds)
    claimed = artefact.metadata.relu_budget if artefact.metadata is not None else None
    return Report(
        file=str(artefact.file),
        version=version("aurep"),
        checks=tuple(work.checks),
        target=work.target,
        provider=used,
        relu_count=known.total if known else None,
        relu_total=total if known else None,
        relu_budget=allowed if allowed is not None else claimed,
        relu_sites=relu_sites(known, recovered) if known else None,
        sites=site_rows(recovered, artefact.metadata, known.by_site if known else {}),
        comparisons=known.comparisons if known else {},
        poolings=known.poolings if known else {},
        notes=tuple(work.notes),
        maps={name: _map(site) for name, site in recovered.items() if len(site.shape) == 3},
        estimates=tuple(_estimates(work.walks)) if known else (),
    )


def _map(site: RecoveredSite) -> list[list[float]]:
    shares: list[list[float]] = np.round(site.mask.mean(0), 3).tolist()
    return shares


def _estimates(walks: Walks) -> list[dict[str, Any]]:
    try:
        return estimate(count_work(walks))
    except UncountableError:
        return []


def _counted(walks: Walks, recovered: Mapping[str, RecoveredSite]) -> ReluCount | AurepError:
    try:
        return count(walks, pointwise(recovered))
    except UncountableError as error:
        return error


def _run_checks(
    work: _Work,
    recovered: Mapping[str, RecoveredSite],
    data: str | None,
    bounds: Bounds,
) -> str | None:
    """Parity, localisation, accuracy and fixed point; returns the provider used."""
    try:
        session = Session(work.model, work.provider)
    except CannotRunError as error:
        work.checks.append(Check("parity", "does not run", None, False, str(error)))
        return None
    run = _load_run(work)
    stored = read_samples(work.artefact.bundle) if work.artefact.bundle is not None else None
    own = _drawn(work, session, recovered, run)
    _check_rounding(work, session, stored, own)
    try:
        _check_samples(work, session, recovered, stored, run, own)
    except CannotRunError as error:
        work.checks.append(Check("parity", "does not run", None, False, str(error)))
    images = _load_images(work, run, data, bounds)
    if images is not None:
        _check_accuracy(work, session, run, images, bounds)
    inputs = [stored.inputs] if stored is not None else []
    inputs += [real for real, labels in [run.samples(SAMPLES)] if len(labels)] if run is not None else []
    inputs += [accuracy.first_inputs(images, work.input, RANGE_IMAGES)] if images is not None else []
    _check_fixed_point(work, session, inputs)
    say("while measuring ranges")
    _check_range(work, session, recovered, inputs)
    return session.provider


def _eager(run: Any) -> Eager | None:
    return None if run is None else lambda x: eager_logits(run, x)


def _drawn(work: _Work, session: Session, recovered: Mapping[str, RecoveredSite], run: Any) -> NDArray[Any]:
    """Inputs that whoever wrote the file could not choose."""
    claim = work.metadata.input if work.metadata is not None else None
    own, tried = asked(work.model, claim, session, _eager(run), _beyond(work, session, recovered, run))
    if tried > len(own):
        work.notes.append(
            f"On {tried - len(own)} of {tried} images drawn at random the network overflows or nearly does, or a "
            "site's input leaves the certified range by more than its width. They were left out; images of your own "
            "that are as far from its training images would get no answer either."
        )
    return own


def _beyond(work: _Work, session: Session, recovered: Mapping[str, RecoveredSite], run: Any) -> list[Beyond]:
    """How far an image leaves the certificate: in the graph, and in the model of the run. None without either."""
    claim = work.metadata.ranges if work.metadata is not None else None
    if claim is None:
        return []
    found: list[Beyond] = []
    sites = comparable(recovered, claim)
    if sites:
        with suppress(CannotRunError):  # which the range check will tell
            probed = probe(work.model, sites, session.provider)
            found.append(lambda image: beyond(claim, measure(probed, sites, [image])))
    if run is not None:
        found.append(lambda image: beyond(claim, eager_bounds(run, image)))
    return found


def _check_rounding(work: _Work, session: Session, stored: Samples | None, own: NDArray[Any]) -> None:
    """Listed only where it fails."""
    with stage("while disturbing the graph's numbers"):
        check = check_rounding(work.walks, session, stored, own)
    work.checks.extend([check] if check is not None else [])


def _check_samples(
    work: _Work,
    session: Session,
    recovered: Mapping[str, RecoveredSite],
    stored: Samples | None,
    run: Any,
    own: NDArray[Any],
) -> None:
    eager = eager_samples(run, stored, SAMPLES) if run is not None else None
    samples = stored or eager
    if samples is None:
        if work.artefact.bundle is not None:
            work.checks.append(Check("parity", "no samples", None, False, "samples.npz is missing; export again."))
        else:
            work.notes.append("Parity was not measured: give a bundle folder, or the run with --run.")
        return
    say("while comparing logits")
    if run is not None and stored is not None:
        own = np.concatenate([own, run.samples(SAMPLES)[0]])
    check = check_parity(work.model, session, samples, eager if stored is not None else None, _eager(run), own)
    work.checks.append(check)
    if not check.passed and recovered:
        say("while looking for the site that differs")
        work.checks.append(check_localise(work.model, recovered, samples.inputs, run))


def _load_images(work: _Work, run: Any, data: str | None, bounds: Bounds) -> Any:
    """The data set to measure on; None, with a note, where there is none."""
    implied = run.config.data.name if run is not None else None
    name = data or implied
    if name is None:
        if bounds.any:
            raise AurepError("an accuracy bound was given but no data to measure on; name it with --data (or --run).")
        work.notes.append("Accuracy was not measured: name the data set with --data.")
        return None
    folder = work.data_dir or (Path(run.config.data.dir) if run is not None and run.config.data.dir else None)
    if folder is not None:
        folder = work.home.absolute() / folder.expanduser()
    required = data is not None or bounds.any
    try:
        with stage("while loading the data"), chdir(work.home):
            return accuracy.load(name, folder, work.input)
    except AurepError as error:
        if required:
            raise
        work.notes.append(f"Accuracy was not measured: {error}")
        return None


def _check_accuracy(work: _Work, session: Session, run: Any, images: Any, bounds: Bounds) -> None:
    """A drop is measured against the run's teacher, where there is a run."""
    training = work.metadata.training if work.metadata is not None else TrainingClaim()
    training = run.training if run is not None else training  # the run's own account where there is one
    try:
        with stage("while measuring the accuracy"):
            reference = _reference(work, run, images) if bounds.max_drop is not None else None
            work.checks.append(check_accuracy(session, images, work.input, training, bounds, reference, _tell))
    except CannotRunError as error:
        work.checks.append(Check("accuracy", "does not run", None, False, str(error)))


def _reference(work: _Work, run: Any, images: Any) -> Reference | None:
    if run is None:
        return None
    try:
        return reference_of(run, images, work.input)
    except AurepError as error:
        work.notes.append(f"The drop is not paired with the teacher's answers: {error}")
        return None


def _check_fixed_point(work: _Work, session: Session, inputs: list[Any]) -> None:
    """On the file's samples, which its author chose, and on some of all other real inputs there are."""
    if work.form is None or not inputs:
        return
    some = [given[:SAMPLES] for given in inputs]
    try:
        with stage("while simulating fixed point"):
            work.checks.append(check_fixed_point(work.model, some, work.form, session.provider))
    except CannotRunError as error:
        work.checks.append(Check("fixed-point", "does not run", None, False, str(error)))


def _check_range(work: _Work, session: Session, recovered: Mapping[str, RecoveredSite], inputs: list[Any]) -> None:
    """The certificate, where the file has one, on all the real inputs there are."""
    claim = work.metadata.ranges if work.metadata is not None else None
    if claim is None:
        return
    if not inputs:
        work.notes.append("The range certificate was not measured again: give a bundle, or data with --data.")
        return
    bits = next((check.detail.get("fraction_bits") for check in work.checks if check.name == "fixed-point"), None)
    try:
        work.checks.append(check_range(work.model, recovered, claim, inputs, work.form, session.provider, bits))
    except CannotRunError as error:
        work.checks.append(Check("range", "does not run", None, False, str(error)))


def _tell(done: int, of: int) -> None:
    say(f"while measuring the accuracy: {done:,} of {of:,} images")


def _load_run(work: _Work) -> Any:
    if work.run is None:
        return None
    from aurep.training import load_run

    share = work.metadata.training.width_multiplier if work.metadata is not None else None
    with stage("while loading the run"), chdir(work.home):
        run = load_run(work.run, work.data_dir)
        run = run if share is None else run.narrowed(share)
        _ = run.model  # built on first use, perhaps by a factory of the user's that lies here
    return run


def _input_of(model: onnx.ModelProto) -> InputClaim:
    """Of a file without metadata: pixels scaled to 0..1, no normalisation."""
    dims = model_inputs(model)[0].type.tensor_type.shape.dim
    shape = tuple(dim.dim_value for dim in dims)[1:]
    return InputClaim(layout="NCHW" if len(shape) == 3 else "NF", shape=shape)
