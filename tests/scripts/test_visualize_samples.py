"""`scripts/visualize.py` on the data of a tiny run, and the plots that the run draws by itself."""

import json
import logging
import re

import pytest
import torch
from PIL import Image

from meru.errors import UserError
from meru.evaluation import sample_plots
from meru.runs.train import train
from meru.runs.visualize import visualize

TWICE = ("trainer.epochs=2", "trainer.evaluate_every=1")
CPU = torch.device("cpu")


def words(cub_folder, folder):
    return (
        "experiment=birds_meru", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
        f"data.root={cub_folder}", "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.batch_size=4", "data.workers=0", "trainer.epochs=1", "trainer.log_every=1", "logger=none",
        "evaluation.attention_pictures=0", f"folder={folder}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(compose, cub_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots") / "run"
    plots = "evaluation.figures=[disk,norms,traversal,neighbours,curves]"
    train(compose(*words(cub_folder, folder), plots, "trainer.figures_every=1", *TWICE), device=CPU)
    return folder


@pytest.fixture
def picture(cub_folder):
    return sorted((cub_folder / "images").rglob("*.jpg"))[-1]


def test_a_run_draws_its_plots_at_validations_and_at_the_end(run):
    steps = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] // 2
    names = ("disk", "norms", "traversal", "neighbours", "curves")
    expected = {f"{name}{when}.png" for name in names for when in ("", f"_step{steps}")}
    assert {path.name for path in (run / "figures").iterdir()} == expected
    assert all(Image.open(path).size[0] > 500 for path in (run / "figures").iterdir())


@pytest.mark.parametrize("name", ["disk", "norms", "traversal", "neighbours", "curves"])
def test_each_figure_of_a_run_is_saved_as_svg_too(run, name, tmp_path):
    line = visualize(name, {"run": str(run), "output": str(tmp_path / "a.svg")})
    assert line.endswith(f": {tmp_path / 'a.svg'}")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_disk_can_keep_neighbours_instead(run, tmp_path):
    visualize("disk", {"run": str(run), "projection": "co_sne", "split": "train", "output": str(tmp_path / "a.png")})
    assert Image.open(tmp_path / "a.png").size[0] > 500


def test_walks_start_and_end_where_the_user_says_and_meet_his_texts(run, picture, cub_folder, tmp_path, monkeypatch):
    from meru.evaluation import traversal

    drawn = []
    original = traversal.traversal_figure
    monkeypatch.setattr(
        traversal, "traversal_figure", lambda rows, **names: drawn.append((rows, names)) or original(rows, **names)
    )
    (tmp_path / "texts.txt").write_text("a red bird\n\n一只鸟\na red bird\n", encoding="utf-8")
    other = min((cub_folder / "images").rglob("*.jpg"))
    given = {"run": str(run), "output": str(tmp_path / "a.png"), "general": "none"}
    visualize("traversal", given | {"text": "a bird", "texts": str(tmp_path / "texts.txt")})
    visualize("traversal", given | {"image": str(picture), "other": str(other), "count": "4"})
    (((of_text,), first), ((of_image,), second)) = drawn
    assert of_text.start_text == "a bird" and of_text.end_text == "root" and of_text.start_image is None
    assert {met.text for met in of_text.met} <= {"a red bird", "一只鸟", "root"} and of_text.radii[-1] == 0
    assert of_image.start_image is not None and of_image.end_image is not None
    assert first["title"] == "From specific to general" and second["title"] == "From one image to another"
    assert first["note"].endswith("all texts count.")


def test_neighbours_of_an_image_and_a_text_are_two_queries(run, picture, tmp_path):
    given = {"run": str(run), "image": str(picture), "text": "a red bird", "output": str(tmp_path / "a.png")}
    visualize("neighbours", given)
    both = Image.open(tmp_path / "a.png").size[1]
    visualize("neighbours", {key: value for key, value in given.items() if key != "image"})
    assert both > 1.5 * Image.open(tmp_path / "a.png").size[1]


def test_curves_take_patterns_and_any_logged_figure(run, tmp_path):
    output = str(tmp_path / "a.png")
    figures = "loss, text_to_image/class/recall@1,gradient_norm"
    line = visualize("curves", {"run": f"{run.parent}/*,{run}", "figures": figures, "output": output})
    assert line == f"learning curves of 1 run: {output}"
    with pytest.raises(UserError, match=r"figures=los: no run logged it; logged are, for instance, .*loss"):
        visualize("curves", {"run": str(run), "figures": "los", "output": output})
    with pytest.raises(UserError, match="no run folder has this name"):
        visualize("curves", {"run": f"{run.parent}/x*", "output": output})


def test_what_a_run_cannot_draw_is_one_line(run, tmp_path):
    given = {"run": str(run), "output": str(tmp_path / "a.png")}
    (tmp_path / "texts.txt").write_text("\n \n")
    with pytest.raises(UserError, match="holds no text: write one text a line"):
        visualize("traversal", given | {"texts": str(tmp_path / "texts.txt")})
    with pytest.raises(UserError, match="are not at .*moved: set their place with root="):
        visualize("disk", given | {"root": str(tmp_path / "moved")})
    assert not (tmp_path / "a.png").exists()


def test_the_plots_are_logged_under_their_names(compose, cub_folder, tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(
        "meru.training.loggers.base.NoLogger.images",
        lambda self, name, rows, columns, *, step: logged.append((name, [*map(str, rows[0])], columns)),
    )
    train(compose(*words(cub_folder, tmp_path / "run"), "evaluation.figures=[curves,disk]"), device=CPU)
    paths = [str(tmp_path / "run" / "figures" / f"{name}.png") for name in ("disk", "curves")]
    assert logged == [("figures", paths, ["disk", "curves"])]


def test_a_plot_that_fails_does_not_end_a_run(compose, cub_folder, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no plot today")

    monkeypatch.setitem(sample_plots.PLOTS, "disk", fail)
    overrides = ("model=clip", "evaluation.figures=[disk,norms,neighbours]")
    config = compose(*words(cub_folder, tmp_path / "run"), *overrides)
    with caplog.at_level(logging.WARNING):
        assert train(config, device=CPU)
    assert [path.name for path in (tmp_path / "run" / "figures").iterdir()] == ["neighbours.png"]
    (warning,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert warning == "the plot disk left out: RuntimeError: no plot today"  # and a sphere has no distances


def test_plots_do_not_change_the_training(compose, cub_folder, tmp_path):
    losses = []
    for every in (0, 1):
        folder = tmp_path / str(every)
        config = compose(
            *words(cub_folder, folder), *TWICE, "encoder.text.dropout=0.1", "evaluation.figures=[disk]",
            f"trainer.figures_every={every}",
        )  # fmt: skip
        train(config, device=CPU)
        losses.append(re.findall(r'"loss": ([\d.]+)', (folder / "metrics.jsonl").read_text()))
    assert losses[0] == losses[1] and len(losses[0]) > 2
