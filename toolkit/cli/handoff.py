"""`aurep handoff`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurep.cli.output import write_output
from aurep.errors import one_line
from aurep.frameworks import DRIVEN

if TYPE_CHECKING:
    from rich.console import Console

    from aurep.handoff import Measurement

_NAMES = click.Choice(list(DRIVEN))


@click.command("handoff")
@click.argument("bundle", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--to", "to", type=_NAMES, help="The framework that runs it.")
@click.option("--setup", type=_NAMES, help="Make the framework's Python environment, once, and stop.")
@click.option("--python", type=click.Path(path_type=Path), help="A Python that has the framework, instead of that one.")
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Images of the bundle to infer.")
@click.option("--protocol", help="spu: SEMI2K, ABY3 or CHEETAH.  [default: the first]")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="Seconds.")
@click.option("--json", "json_file", metavar="FILE", help="Write the measurement as JSON; - for standard output.")
def command(
    bundle: Path | None,
    to: str | None,
    setup: str | None,
    python: Path | None,
    samples: int,
    protocol: str | None,
    timeout: float,
    json_file: str | None,
) -> None:
    """Run the bundle's samples encrypted, with real parties on this machine, and measure error, bytes and rounds.

    The framework runs in its own Python environment: make it once with --setup.
    """
    from rich.console import Console

    console = Console(stderr=json_file == "-", highlight=False)
    if setup is not None:
        if bundle is not None or to is not None:
            raise click.UsageError("--setup makes an environment and runs nothing; leave BUNDLE and --to out.")
        _setup(setup, console)
        return
    if bundle is None or to is None:
        raise click.UsageError("give a BUNDLE and the framework with --to (or make an environment with --setup).")
    from aurep.handoff import handoff

    with _progress(console) as heard:
        found = handoff(
            bundle,
            to,
            samples=samples,
            protocol=protocol,
            python=python,
            timeout=timeout,
            heard=heard,
            warned=lambda warning: console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True),
        )
    _print(found, console)
    if json_file is not None:
        write_output(json_file, found.to_json())


def _setup(name: str, console: Console) -> None:
    from rich.markup import escape

    from aurep.handoff.environment import setup

    with console.status(f"{name}: installing") as status:
        python = setup(DRIVEN[name], lambda line: status.update(escape(f"{name}: {line[:100]}")))
    console.print(f"{name} runs with {python}", markup=False, soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A bar that follows party 1, which gets the result; the words follow whoever spoke last."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting the parties", total=1.0)

        def heard(rank: int, event: dict[str, Any]) -> None:
            if event["event"] == "phase":
                progress.update(task, description=event["name"])
            elif event["event"] == "progress" and rank == 1:
                progress.update(task, completed=event["done"], total=event["of"])

        yield heard


def _print(found: Measurement, console: Console) -> None:
    from rich.text import Text

    console.print(Text("\n".join(map(one_line, lines(found)))), soft_wrap=True)


def lines(found: Measurement) -> list[str]:
    """The report as text."""
    from aurep.handoff.network import LAN, WAN

    traffic, error = found.traffic, found.logits
    foreseen = found.predicted
    images = "image" if found.batch == 1 else f"batch of {found.batch}"
    told = [
        f"{found.framework} ({', '.join(found.packages)}), {found.protocol}, {len(found.roles)} parties over loopback",
        f"logits: largest error {error.max_error:.2g} ({error.scaled_error:.2g} of the largest logit), top-1 agreement "
        f"{error.top1_agreement:.1%} on {found.samples} samples",
        *([f"  foreseen: {foreseen.max_error:.2g} ({foreseen.scaled_error:.2g})"] if foreseen is not None else []),
        f"bytes per {images}: {traffic.total:,} on the wire",
    ]
    if traffic.weight_opening is not None:
        told.append(f"  activation traffic {traffic.activations:,}, opening of secret weights {traffic.opening:,}")
    told += [
        f"  party {i} ({role}) sent {sent:,}"
        for i, (role, sent) in enumerate(zip(found.roles, traffic.sent, strict=True))
    ]
    if found.once is not None:
        told.append(f"  once, before the first: {sum(found.once):,}")
    told.append(f"rounds per {images}: {traffic.rounds:,} ({found.rounds_are})")
    told.append(f"seconds per {images}: {found.seconds:.2f} over loopback (indicative)")
    for net in (LAN, WAN):
        seconds = net.seconds(found.seconds, traffic.rounds, max(traffic.sent))
        told.append(
            f"  derived for a {net.name} of {net.megabits:g} Mbit/s, {net.round_trip_ms:g} ms round trip: "
            f"{seconds:.2f} (loopback + rounds x round trip + largest sender's bytes / bandwidth)"
        )
    return told
