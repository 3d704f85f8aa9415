"""The table over seeds."""

import json
import subprocess

import pytest

from meru.files import PROJECT

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


@pytest.fixture
def compare(warm_python):
    def run(*words):
        command = [warm_python, PROJECT / "scripts" / "compare.py", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def test_seeds_stand_in_one_row_with_mean_and_sample_deviation(tmp_path, compare):
    runs = [write_run(tmp_path / f"a{s}", name="cub_meru", seed=s, share=0.1 * s) for s in (1, 2, 3)]
    runs.append(write_run(tmp_path / "b", name="cub_clip", seed=0, share=0.5))
    lines = compare(*runs).stdout.splitlines()
    assert lines[2] == "| cub_meru | 3 | " + " | ".join(["20.0 ± 10.0"] * 5) + " |"
    assert lines[3] == "| chance | | " + " | ".join(["2.0"] * 5) + " |"
    assert lines[4] == "| cub_clip | 1 | " + " | ".join(["50.0"] * 5) + " |"


def test_pointing_has_columns_where_every_run_has_it(tmp_path, compare):
    runs = [write_run(tmp_path / f"a{s}", name="birds_meru", seed=s, share=0.3) for s in (1, 2)]
    assert "pointing" not in compare(*runs).stdout
    for run in runs:
        path = tmp_path / run / "test.json"
        points = {f"{row}/{kind}accuracy@1": 0.3 for row in ("pointing", "box_centre") for kind in ("", "chance_")}
        path.write_text(json.dumps({**json.loads(path.read_text()), **points}))
    header, _, row, _ = compare(*runs).stdout.splitlines()
    assert header.endswith("| pointing | box centre |") and row.count("30.0 ± 0.0") == 7


DISCOVERY = {
    f"{row}/{group}/{kind}accuracy": value
    for row in ("discovery", "kmeans", "inductive")
    for group in ("all", "old", "new")
    for kind, value in (("", 0.4), ("chance_", 0.1))
} | {"feature_tree/dendrogram_purity": 0.3, "feature_tree/chance_dendrogram_purity": 0.05}


def test_discovery_runs_and_runs_on_persons_have_tables_of_their_own(tmp_path, compare):
    runs = [write_run(tmp_path / name, name=name, seed=0, share=0.3) for name in ("birds", "gcd", "persons")]
    (tmp_path / "gcd" / "test.json").write_text(json.dumps(DISCOVERY))
    persons = {"text_to_image/identity/recall@1": 0.5, "text_to_image/identity/chance_recall@1": 0.01}
    (tmp_path / "persons" / "test.json").write_text(json.dumps(persons))
    first, second, third = compare(*runs).stdout.strip().split("\n\n")
    assert first.splitlines()[2] == "| birds | 1 | " + " | ".join(["30.0"] * 5) + " |"
    assert second.splitlines()[0] == "| run | seeds | text→image R@1 |" and "| persons | 1 | 50.0 |" in second
    header, _, row, chance = third.splitlines()
    assert header == (
        "| run | seeds | All | Old | New | k-means All | k-means Old | k-means New | test All | test Old | test New "
        "| feature tree purity |"
    )
    assert row == "| gcd | 1 | " + " | ".join(["40.0"] * 9 + ["30.0"]) + " |"
    assert chance == "| chance | | " + " | ".join(["10.0"] * 9 + ["5.0"]) + " |"


def test_degraded_images_have_columns_of_their_own(tmp_path, compare):
    runs = [write_run(tmp_path / f"a{s}", name="birds_meru", seed=s, share=0.1) for s in (1, 2)]
    for run in runs:
        figures = {f"{row}/text_to_image/class/recall@1": 0.2 for row in ("clean", "resolution/mean", "caption/0.5")}
        figures |= {f"{row}/text_to_image/class/chance_recall@1": 0.1 for row in ("clean", "resolution/mean")}
        (tmp_path / run / "robustness.json").write_text(json.dumps(figures))
    header, _, row, chance = compare(*runs, "--figures=robustness.json").stdout.splitlines()
    assert header == "| run | seeds | clean | resolution | half the caption |"
    assert row == "| birds_meru | 2 | 20.0 ± 0.0 | 20.0 ± 0.0 | 20.0 ± 0.0 |"
    assert chance == "| chance | | 10.0 | 10.0 | – |"


def test_what_is_no_run_folder_is_left_out_of_the_table(tmp_path, compare):
    """`scripts/compare.py <folder of an ablation>/*`."""
    write_run(tmp_path / "meru_0", name="cub_meru", seed=0, share=0.1)
    for name in ("ablation.csv", "ablation.md", "meru_0.log"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    done = compare(*sorted(tmp_path.iterdir()))
    assert done.returncode == 0 and "| cub_meru | 1 |" in done.stdout and "left out" not in done.stdout
    assert done.stderr == "left out, not run folders: ablation.csv, ablation.md, empty, meru_0.log\n"
    gone = compare(tmp_path / "meru_0", tmp_path / "meru_1")
    assert gone.returncode == 2 and f"{tmp_path / 'meru_1'} is not a run folder: it does not exist" in gone.stderr


def test_a_figure_that_some_runs_lack_is_a_dash_or_the_mean_of_the_others(tmp_path, compare):
    runs = [write_run(tmp_path / f"a{s}", name="a|b", seed=s, share=0.1 * s) for s in (1, 2)]
    runs.append(write_run(tmp_path / "c", name="c", seed=0, share=0.5))
    for run in (tmp_path / "a1", tmp_path / "c"):
        figures = json.loads((run / "test.json").read_text())
        (run / "test.json").write_text(json.dumps({**figures, "zero_shot/accuracy@1": None}))
    lines = compare(*runs).stdout.splitlines()
    assert lines[2].startswith("| a\\|b | 2 | 15.0 ± 7.1 |") and "| 20.0 (of 1) |" in lines[2]
    assert lines[4].split(" | ")[2:] == ["50.0", "50.0", "50.0", "–", "50.0 |"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[0.5]", "holds no figures by name"),
        (b"{}", "that run had no test images"),
        (b'{"found/recall@1": 0.5}', "none of the figures to compare"),
    ],
)
def test_figures_that_cannot_be_read_are_one_line_naming_the_file(content, message, tmp_path, compare):
    run = write_run(tmp_path / "a", name="cub_meru", seed=0, share=0.1)
    (tmp_path / "a" / "test.json").write_bytes(content)
    done = compare(run)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message in done.stderr and str(tmp_path / "a" / "test.json") in done.stderr


def test_mistakes_are_one_clear_line(tmp_path, compare):
    unfinished = write_run(tmp_path / "a", name="cub_meru", seed=0, share=0.1, finished=False)
    broken = write_run(tmp_path / "b", name="cub_meru", seed=0, share=0.1)
    (tmp_path / "b" / "config.yaml").write_text("name: [")
    whole = write_run(tmp_path / "c", name="cub_meru", seed=0, share=0.1)
    for words, message in (
        ([unfinished], "the run is not finished"),
        ([str(tmp_path)], "is not a run folder"),
        ([f"{whole}/test.json"], "is not a run folder"),
        ([broken], "config.yaml is damaged"),
        ([whole, "--figures=robustness.json"], "robustness.json is missing: write it with scripts/evaluate.py"),
    ):
        done = compare(*words)
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
