"""What a run records of its search: elements that came back, and what it kept by itself."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

import aurep
from aurep.training.moves import Moves, cut_warning
from tests.toolkit.search.searching import TOTAL, Search
from tests.toolkit.training.tiny import tiny_config


def test_an_element_counts_once_however_often_it_comes_back() -> None:
    search = Search("random", 10)
    moves, mask = Moves(search.policy), search.sites[0].mask.view(-1)
    for kept in (False, True, False, True):
        mask[:4] = kept
        moves.follow()
    mask[7] = False
    moves.follow()
    assert moves.recovered() == 4
    assert moves.recovered() == 0


def test_elements_that_a_start_replaces_can_come_back() -> None:
    search = Search("senet", 10)
    moves = Moves(search.policy)
    search.sites[0].mask.fill_(True)
    replaced = search.sites[0].mask.numel() - int(Search("senet", 10).sites[0].mask.sum())
    moves.follow()
    assert moves.recovered() == replaced


def test_finishing_says_what_the_search_kept_by_itself() -> None:
    search = Search("autorep", 10)
    assert Moves(search.policy).finish() == TOTAL
    assert sum(search.counts()) == 10


@pytest.mark.parametrize(
    ("kept", "budget", "warned"),
    [(100, 90, False), (100, 89, True), (5, 90, False), (0, 0, False), (10, 0, False), (11, 0, True), (11, 1, True)],
)
def test_only_a_cut_of_more_than_a_tenth_is_told(kept: int, budget: int, warned: bool) -> None:
    assert (cut_warning(kept, budget, total=1000) is not None) == warned


@pytest.mark.parametrize(("rate", "cut"), [(1e-9, True), (0.3, False)], ids=["still", "fast"])
def test_a_run_records_and_warns(rate: float, cut: bool, tmp_path: Path) -> None:
    """Indicators that hardly move leave the choice to the projection; fast ones reach the budget by themselves."""
    config = tiny_config(baseline__epochs=1, finetune__epochs=0, search__options=f"{{alpha_lr = {rate}}}")
    console = Console(file=io.StringIO(), width=300)
    aurep.train(config, tmp_path / "run", console=console)
    with (tmp_path / "run/metrics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["phase"] == "search"]
    kept = int(rows[-1]["kept_before_projection"])
    assert (kept == 960) == cut
    assert all(row["recovered"].isdigit() for row in rows)
    report = (tmp_path / "run/report.html").read_text()
    assert f"ended with {kept:,} elements kept" in report
    for text in (report, console.file.getvalue()):
        assert ("the projection to 96 cuts 90 %" in text) == cut
