"""Does the graph compare what it claims, and no more than the budget?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aurep.budget import parse_budget
from aurep.errors import AurepError
from aurep.frameworks import FRAMEWORKS
from aurep.metadata import Metadata
from aurep.validators.graph.costs import ROUNDING, SUMS
from aurep.validators.relu_count import ReluCount
from aurep.validators.report import Check
from aurep.validators.sites.recovery import RecoveredSite

_ANY_COUNT = 10**18  # parse_budget refuses a budget above the total; held against a count, a large one is merely ample


def _everywhere(metadata: Metadata) -> bool:
    """Whether the target compares at every element and says so: its budget is held against the kept elements."""
    return metadata.target in FRAMEWORKS and FRAMEWORKS[metadata.target].compares_everywhere


def activations(count: ReluCount, recovered: Mapping[str, RecoveredSite]) -> int:
    """Activation elements per image, kept or replaced: what a budget in percent is a share of.

    Of sites that are linear throughout there are none: any linear layer could be called one.
    """
    return sum(site.mask.size for site in recovered.values() if site.nonlinear) + _outside(count, recovered)


def _outside(count: ReluCount, recovered: Mapping[str, RecoveredSite]) -> int:
    """ReLU-like elements that no recovered site needs: those of other nodes, and any beyond one for each element."""
    inside = (sum(count.nodes.get(node, 0) for node in site.nodes) for site in recovered.values())
    return count.total - sum(min(n, site.mask.size) for n, site in zip(inside, recovered.values(), strict=True))


def read_budget(text: str | int | None, total: int, name: str = "budget") -> int | None:
    """A budget as the command line takes it; raises AurepError."""
    if text is None:
        return None
    return parse_budget(text, total if str(text).strip().endswith("%") else _ANY_COUNT, name)


def check_comparisons(count: ReluCount | AurepError, allowed: int) -> Check:
    """Hold all comparisons an image against `allowed`: whatever the budget is of, under PI each costs the same."""
    if isinstance(count, AurepError):
        return Check("comparisons", "uncountable", allowed, False, str(count))
    measured = sum(count.comparisons.values())
    if measured <= allowed:
        return Check("comparisons", measured, allowed, True)
    parts = ", ".join(f"{op} {elements:,}" for op, elements in count.comparisons.items())
    hint = f"The graph makes {measured:,} comparisons per image ({parts}) but {allowed:,} are allowed."
    return Check("comparisons", measured, allowed, False, hint)


def check_count(
    count: ReluCount | AurepError,
    metadata: Metadata | None,
    budget: int | None,
    recovered: Mapping[str, RecoveredSite],
) -> Check:
    """Hold `count` against the claim and the budget; `count` is the refusal where the graph cannot be counted."""
    allowed = budget if budget is not None else metadata.relu_budget if metadata is not None else None
    if isinstance(count, AurepError):
        return Check("relu-count", "uncountable", allowed, False, str(count))
    measured, problems = count.total, []
    if metadata is not None:
        problems += _against_claim(count, metadata)
    serving = metadata is not None and _everywhere(metadata) and budget is None
    if serving:
        measured = sum(int(site.mask.sum()) for site in recovered.values()) + _outside(count, recovered)
    if allowed is not None and measured > allowed:
        problems.append(f"The graph evaluates {measured:,} ReLU-like elements per image but {allowed:,} are allowed.")
    if problems:
        problems += _huge(count)
    hint = " ".join([*(problems or _remarks(count, serving, allowed)), *_besides(count)])
    return Check("relu-count", measured, allowed, not problems, hint)


def _against_claim(count: ReluCount, metadata: Metadata) -> list[str]:
    problems = []
    found, claimed = count.comparisons, {op: n for op, n in metadata.comparisons.items() if n}
    for op in sorted(found.keys() | claimed.keys()):
        if found.get(op, 0) != claimed.get(op, 0):
            problems.append(
                f"{op} compares {found.get(op, 0):,} elements per image but {claimed.get(op, 0):,} are claimed."
            )
    if not _everywhere(metadata) and metadata.relu_count != count.total:
        problems.append(f"{count.total:,} ReLU-like elements were counted but {metadata.relu_count:,} are claimed.")
    if metadata.relu_count > metadata.relu_budget:
        problems.append(f"{metadata.relu_count:,} kept are claimed, above the budget {metadata.relu_budget:,}.")
    return problems and [*problems, "Export the model again."]


def _huge(count: ReluCount) -> Iterator[str]:
    """Why sums compare, which nobody expects of them."""
    sums = [op for op in count.comparisons if op in SUMS]
    if sums:
        yield (
            f"{' and '.join(sums)} in floats {'compares' if len(sums) == 1 else 'compare'} where a constant of "
            f"{ROUNDING:,.0f} or more is added, which rounds like a step. In a network that was trained such constants "
            "say that its values exploded; often the running statistics of batch norms have not followed, after too "
            "few steps or at too high a rate."
        )


def _remarks(count: ReluCount, serving: bool, allowed: int | None) -> Iterator[str]:
    if serving:
        yield f"Kept elements; this target compares at all {count.total:,}: it saves nothing under PI."
    if allowed is None:
        yield "No budget was given or claimed."


def _besides(count: ReluCount) -> Iterator[str]:
    """What compares, and is no ReLU."""
    if not count.pooling:
        return
    first, *others = count.poolings
    names = " and ".join([first, *others] if len(others) < 2 else [first, f"{len(others)} others"])
    verb = "makes" if not others else "make"
    still = f"0 ReLUs; {names} still {verb}" if count.total == 0 else f"Besides, {names} {verb}"
    yield f"{still} {count.pooling:,} comparisons per image (max-pooling; --max-comparisons bounds these too)."
