"""The benchmark of images: every way gives as many images, and mistakes are one line."""

import subprocess
import sys

import pytest

from meru.benchmarks.data import REFERENCE, WAYS, drawn_jpegs, found_jpegs, loader_rates, measure_ways, report
from meru.data.images import image_size
from meru.errors import UserError
from meru.files import PROJECT


def test_every_way_is_measured_beside_the_reference(tmp_path):
    paths = drawn_jpegs(tmp_path, 3, (30, 40))
    assert [image_size(path) for path in paths] == [(30, 40)] * 3
    rows = measure_ways(paths, tmp_path / "cache", size=16, repeats=1)
    assert rows[0]["way"] == REFERENCE and rows[0]["ratio"] == 1
    assert {f"ours, {name}" for name in WAYS} <= {row["way"] for row in rows}
    assert all(row["images_per_second"] > 0 for row in rows)


def test_the_loader_brings_whole_batches_on_every_way(tmp_path):
    paths = drawn_jpegs(tmp_path, 4, (30, 40))
    rows = loader_rates(paths, tmp_path / "cache", size=16, batch=2, workers=0, steps=1, device="cpu")
    assert [row["way"] for row in rows] == list(WAYS)


def test_own_images_are_found_in_folders_of_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (path,) = drawn_jpegs(tmp_path / "a" / "b", 1, (30, 40))
    assert found_jpegs(f"root={tmp_path}", 5) == [path]
    assert "1 JPEG files" in report(str(tmp_path), 5, 0, 0, 16, 1, "cpu")
    path.unlink()
    with pytest.raises(UserError, match="there is no JPEG file"):
        found_jpegs(str(tmp_path), 5)


@pytest.mark.parametrize("word", ["--size", "--width", "--height"])
def test_sides_that_no_image_has_are_refused_before_anything_is_drawn(word):
    command = [sys.executable, PROJECT / "scripts" / "benchmark.py", "data", word, "99999999999"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert f"argument {word}: 99999999999: give at most 16384 pixels" in result.stderr
