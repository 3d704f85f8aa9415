"""The printed table and the JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from meru.errors import UserError
from meru.reports.tables import ROWS, format_table, markdown_table, write_json

METRICS = {
    "zero_shot/accuracy@1": 0.456,
    "zero_shot/chance_accuracy@1": 0.01,
    "text_to_image/class/recall@1": 0.2149,
    "text_to_image/class/chance_recall@1": 0.01,
    "text_to_image/class/recall@10": 1.0,
    "text_to_image/class/chance_recall@10": 0.0954,
    "text_to_image/image/mean_average_precision": 0.1,
    "text_to_image/image/chance_mean_average_precision": 0.0003,
    "text_to_image/image/queries": 2903.0,
    "parts/recall@5": 0.5,
}


def test_table_puts_each_chance_level_beside_its_figure():
    assert format_table(METRICS, "test split").splitlines() == [
        "test split: percent (chance level)",
        "                           R@1           R@5          R@10           mAP",
        "text → image, same image                                            10.0 (<0.1)",
        "text → image, same class  21.5 (1.0)                 100.0 (9.5)",
        "zero-shot (top-1, top-5)  45.6 (1.0)",
        "parts                                   50.0",
    ]


def test_a_markdown_table_escapes_bars():
    assert markdown_table(["a", "b"], [["x|y", ""]]) == "| a | b |\n|---|---|\n| x\\|y | |"


def test_queries_without_a_match_are_counted_in_the_table():
    row = "text_to_image/identity"
    metrics = {f"{row}/recall@1": 0.5, f"{row}/queries": 8.0, f"{row}/queries_without_match": 2.0}
    metrics |= {f"{row}/mean_inverse_negative_penalty": 0.25}
    _, header, line = format_table(metrics, "test split").splitlines()
    assert header.split() == ["R@1", "mINP"]
    assert line.split()[5:7] == ["50.0", "25.0"] and line.endswith("2 of 8 queries have no match and score 0")


def test_a_table_fits_a_screen_and_leaves_single_parts_to_the_file():
    """Pointing is shown of a model that has learned where words look, and of no other."""
    metrics = {f"{row}/recall@{k}": 0.5 for row in list(ROWS)[:4] for k in (1, 5, 10)}
    metrics |= {f"{row}/accuracy@1": 0.5 for row in list(ROWS)[8:12]}
    parts = ("", "/mean_of_parts", "/beak", "/tail", *(f"/{number}" for number in range(12)))
    metrics |= {f"{row}{part}/accuracy@1": 0.1 for row in ("pointing", "box_centre") for part in parts}
    table = format_table(metrics, "test split")
    assert len(table.splitlines()) == 2 + 8 + 4 <= 24 and "beak" not in table
    assert table.splitlines()[-1].startswith("box centre, mean of parts")
    without = format_table(metrics, "test split", pointing=False)
    assert len(without.splitlines()) == 2 + 8 and "pointing" not in without


def test_json_comes_back_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "metrics.json"
    write_json(path, {"old": 1.0})
    write_json(str(path), METRICS)
    assert json.loads(path.read_text(encoding="utf-8")) == METRICS
    assert os.listdir(path.parent) == ["metrics.json"]


def test_failure_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1.0})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"metrics\.json: No space left on device"):
        write_json(path, METRICS)
    with pytest.raises(ValueError):
        write_json(path, {"broken": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1.0}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*metrics.json: File exists"):
        write_json(tmp_path / "file" / "metrics.json", METRICS)


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link"):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        write_json(path, {"figure": 0.5})
        assert json.loads(os.read(reader, 1000)) == {"figure": 0.5}
        os.close(reader)
    assert pipe.is_fifo() and (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs the device /dev/full")
def test_a_device_that_is_full_is_one_line():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        write_json("/dev/full", {"figure": 0.5})
    assert Path("/dev/full").is_char_device()
