"""The table over seeds."""

import json
import subprocess
import sys

from meru.command_line import PROJECT

KEYS = ["text_to_image/class/recall@1", "text_to_image/image/recall@10", "image_to_text/class/recall@1",
        "zero_shot/accuracy@1", "class_captions/accuracy@1"]  # fmt: skip


def write_run(folder, *, name, seed, share, finished=True):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"name: {name}\nseed: {seed}\nfolder: {folder}\nmodel: {{of: {name}}}\n")
    figures = {key: share for key in KEYS}
    figures |= {"/chance_".join(key.rsplit("/", 1)): 0.02 for key in KEYS}
    if finished:
        (folder / "test.json").write_text(json.dumps(figures))
    return str(folder)


def compare(*runs):
    command = [sys.executable, PROJECT / "scripts" / "compare.py", *runs]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_seeds_stand_in_one_row_with_mean_and_sample_deviation(tmp_path):
    runs = [write_run(tmp_path / f"a{s}", name="cub_meru", seed=s, share=0.1 * s) for s in (1, 2, 3)]
    runs.append(write_run(tmp_path / "b", name="cub_clip", seed=0, share=0.5))
    lines = compare(*runs).stdout.splitlines()
    assert lines[2] == "| cub_meru | 3 | " + " | ".join(["20.0 ± 10.0"] * 5) + " |"
    assert lines[3] == "| chance | | " + " | ".join(["2.0"] * 5) + " |"
    assert lines[4] == "| cub_clip | 1 | " + " | ".join(["50.0"] * 5) + " |"


def test_pointing_has_columns_where_every_run_has_it(tmp_path):
    runs = [write_run(tmp_path / f"a{s}", name="birds_meru", seed=s, share=0.3) for s in (1, 2)]
    assert "pointing" not in compare(*runs).stdout
    for run in runs:
        path = tmp_path / run / "test.json"
        points = {f"{row}/{kind}accuracy@1": 0.3 for row in ("pointing", "box_centre") for kind in ("", "chance_")}
        path.write_text(json.dumps({**json.loads(path.read_text()), **points}))
    header, _, row, _ = compare(*runs).stdout.splitlines()
    assert header.endswith("| pointing | box centre |") and row.count("30.0 ± 0.0") == 7


def test_mistakes_are_one_clear_line(tmp_path):
    unfinished = write_run(tmp_path / "a", name="cub_meru", seed=0, share=0.1, finished=False)
    for run, message in ((unfinished, "the run is not finished"), (str(tmp_path), "is no run folder")):
        done = compare(run)
        assert done.returncode == 2
        assert message in done.stderr and "Traceback" not in done.stderr
