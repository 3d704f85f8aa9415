"""Tables over seeds: marks, missing seeds, one seed."""

import csv

import pytest

from meru.metrics.statistics import Difference
from meru.reports.over_seeds import Runs, ablation_csv, ablation_markdown, difference_cell, runs_csv

COLUMNS = {"R@1": "found/recall@1"}


def runs(shares, minutes=None):
    figures = {seed: {} if share is None else {"found/recall@1": share} for seed, share in shares.items()}
    return Runs(figures, {seed: {"minutes": minutes, "cpu_minutes": 2 * minutes} if minutes else {} for seed in shares})


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (None, "–"),
        (Difference(0.02, -0.005, 0.045, 3), "+2.0 [-0.5, +4.5]"),
        (Difference(0.02, 0.005, 0.035, 3), "**+2.0 [+0.5, +3.5]** \\*"),
        (Difference(-0.02, -0.035, -0.005, 2), "**-2.0 [-3.5, -0.5]** \\* (2 pairs)"),
        (Difference(0.02, None, None, 1), "+2.0 (1 pair)"),
    ],
)
def test_a_difference_is_marked_if_its_interval_excludes_0(difference, text):
    assert difference_cell(difference, seeds=3) == text


def test_the_table_has_means_then_differences_to_the_first_row():
    table = {
        "MERU": runs({0: 0.10, 1: 0.20, 2: 0.30}, minutes=2.0),
        "better": runs({0: 0.15, 1: 0.25, 2: 0.35}, minutes=3.0),
        "two seeds": runs({1: 0.20, 2: 0.34}),
        "broken": runs({0: None}),
    }
    lines = ablation_markdown(COLUMNS, table, "MERU").splitlines()
    assert lines[2:6] == [
        "| MERU | 3 | 20.0 ± 10.0 | 2.0 |", "| better | 3 | 25.0 ± 10.0 | 3.0 |", "| two seeds | 2 | 27.0 ± 9.9 | – |",
        "| broken | 1 | – | – |",
    ]  # fmt: skip
    assert lines[8].startswith(
        "Difference to MERU, for shares in percentage points: mean over the seeds that both have, with its 95 %"
    )
    assert lines[12:15] == [
        "| better | **+5.0 [+5.0, +5.0]** \\* |", "| two seeds | +2.0 [-23.4, +27.4] (2 pairs) |", "| broken | – |",
    ]  # fmt: skip
    assert lines[-1] == "\\* The interval excludes 0."


def test_one_seed_has_no_interval_and_one_variant_no_differences():
    text = ablation_markdown(COLUMNS, {"MERU": runs({0: 0.1}), "CLIP": runs({0: 0.2})}, "MERU")
    assert "with one seed, there is no interval" in text and "| CLIP | +10.0 |" in text and "\\*" not in text
    assert "Difference" not in ablation_markdown(COLUMNS, {"MERU": runs({0: 0.1, 1: 0.2})}, "MERU")


def test_the_files_have_every_number():
    table = {"MERU": runs({0: 0.1, 1: 0.2}, minutes=2.0), "CLIP": runs({0: 1 / 3, 1: None})}
    first, second, chance = csv.DictReader(ablation_csv(COLUMNS, table, "MERU").splitlines())
    assert first["R@1, mean"] == "15.000" and first["R@1, difference"] == "" and first["CPU minutes"] == "4.0"
    assert second["R@1, difference"] == "23.333" and second["R@1, pairs"] == "1" and second["R@1, low"] == ""
    assert chance["variant"] == "chance"
    single = list(csv.DictReader(runs_csv(COLUMNS, table).splitlines()))
    assert [(row["variant"], row["seed"]) for row in single] == [
        ("MERU", "0"),
        ("MERU", "1"),
        ("CLIP", "0"),
        ("CLIP", "1"),
    ]
    assert float(single[2]["found/recall@1"]) == 1 / 3 and single[3]["found/recall@1"] == ""


def test_figures_that_are_no_shares_keep_their_unit():
    key = "zero_shot/hierarchy/tree_induced_error"
    chance = "zero_shot/hierarchy/chance_tree_induced_error"
    table = {
        name: Runs({seed: {key: edges + seed / 10, chance: 3.9} for seed in (0, 1)}, {0: {}, 1: {}})
        for name, edges in (("MERU", 2.1), ("CLIP", 1.9))
    }
    text = ablation_markdown({"edges": key}, table, "MERU")
    assert "| MERU | 2 | 2.15 ± 0.07 |" in text and "| chance | | 3.90 |" in text and "-0.20" in text
    assert "2.150" in ablation_csv({"edges": key}, table, "MERU")


def test_without_runs_of_the_reference_nothing_is_compared():
    text = ablation_markdown(COLUMNS, {"CLIP": runs({0: 0.1, 1: 0.3}), "UNCHA": runs({0: 0.2, 1: 0.2})}, "MERU")
    assert "Difference" not in text and "| UNCHA | 2 |" in text


def test_a_row_whose_chance_level_differs_has_it_in_brackets():
    """Other proportions of classes, or another number of predictions, change what guessing would give."""

    def of(levels):
        figures = {seed: {"found/recall@1": 0.5, "found/chance_recall@1": level} for seed, level in enumerate(levels)}
        return Runs(figures, {seed: {} for seed in figures})

    table = {"MERU": of([0.1, 0.2]), "same": of([0.15, 0.154]), "tail": of([0.3, 0.4])}
    lines = ablation_markdown(COLUMNS, table, "MERU").splitlines()
    assert lines[2:8] == [
        "| MERU | 2 | 50.0 ± 0.0 | – |", "| same | 2 | 50.0 ± 0.0 | – |", "| tail | 2 | 50.0 ± 0.0 (35.0) | – |",
        "| chance | | 15.0 | |", "",
        "Chance is that of MERU; in brackets: of a row where it differs by more than 5 %.",
    ]  # fmt: skip
    *_, tail, chance = csv.DictReader(ablation_csv(COLUMNS, table, "MERU").splitlines())
    assert tail["R@1, chance"] == "35.000" and chance["R@1, mean"] == "15.000"
    assert "brackets" not in ablation_markdown(COLUMNS, {"MERU": table["MERU"], "same": table["same"]}, "MERU")
