"""The end of a run: whatever fails after the last step, what was trained is kept."""

import dataclasses
import json
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from meru.assemble import build
from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.errors import UserError
from meru.evaluation import examples
from meru.evaluation.classes import class_trees, purities, save_trees
from meru.evaluation.examples import safe_name
from meru.metrics.class_tree import class_tree
from meru.reports.attention import attention_figure, printable, save_figure
from meru.reports.class_tree import dendrogram_figure, poincare_disk_figure
from meru.runs import evaluate as evaluating
from meru.runs import finish as finishing
from meru.runs import train as running
from meru.tasks.discovery import Discovery
from meru.tasks.image_text import ImageText
from meru.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def configuration(compose, cub_folder, tmp_path):
    def make(*overrides, root=cub_folder):
        return compose(
            "experiment=birds_meru_patches", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
            f"data.root={root}", "data.load._target_=meru.data.datasets.cub.load_cub",
            "data.batch_size=4", "data.workers=0",
            "trainer.epochs=1", "logger=none", "evaluation.attention_pictures=2", f"folder={tmp_path / 'run'}",
            *overrides,
        )  # fmt: skip

    return make


@pytest.fixture
def without_test_images(monkeypatch):
    load_data = ImageText.load_data
    monkeypatch.setattr(ImageText, "load_data", lambda task: dataclasses.replace(load_data(task), test=()))


class Pictures:
    """A logger for which pictures are drawn, and which notes what it is given."""

    def __init__(self):
        self.tables = {}

    def log(self, figures, *, step):
        """Nothing."""

    def images(self, name, rows, columns, *, step):
        self.tables[name] = (rows, columns)

    def finish(self):
        """Nothing."""


def test_without_test_images_a_run_ends_with_its_weights_and_no_figures(
    configuration, without_test_images, compose, tmp_path, caplog
):
    caplog.set_level("INFO", logger="meru")
    assert running.train(configuration(), device=CPU) == {}
    run = tmp_path / "run"
    assert json.loads((run / "test.json").read_text()) == {}
    exported, best = (load_file(run / f"{name}.safetensors") for name in ("model", "best"))
    assert all(torch.equal(exported[name], best[name]) for name in best)
    assert "there are no images: no figures" in caplog.text and "test split" not in caplog.text
    assert len(list((run / "attention").iterdir())) == 2  # of validation images
    with pytest.raises(UserError, match="split=test: this run's data have no test images; choose validation or train"):
        evaluating.evaluate_run(compose(f"run={run}", "workers=0", name="evaluate"))
    figures = evaluating.evaluate_run(compose(f"run={run}", "workers=0", "split=train", name="evaluate"))
    assert figures["zero_shot/images"] > 0


def test_images_that_are_all_skipped_cost_figures_not_the_run(
    configuration, make_cub_folder, compose, tmp_path, caplog
):
    config = configuration("data.on_error=skip", root=make_cub_folder())
    data = ImageText(config, device=CPU).data
    for record in (*data.test, *data.validation):
        record.path.write_bytes(b"not a picture")
    assert data.validation and running.train(config, device=CPU) == {}
    run = tmp_path / "run"
    assert json.loads((run / "test.json").read_text()) == {}
    assert (run / "model.safetensors").exists() and not (run / "best.safetensors").exists()
    assert f"none of the {len(data.validation)} validation images decodes" in caplog.text
    assert f"none of {len(data.test)} images decodes: no figures" in caplog.text
    for split in ("test", "validation"):
        with pytest.raises(UserError, match=f"none of the . {split} images decodes"):
            evaluating.evaluate_run(compose(f"run={run}", "workers=0", f"split={split}", name="evaluate"))


def test_figures_that_cannot_be_had_leave_the_weights_and_say_how_to_get_them(
    configuration, make_cub_folder, compose, tmp_path, monkeypatch
):
    config = configuration(root=make_cub_folder())
    path = ImageText(config, device=CPU).data.test[0].path
    picture, run_trainer = path.read_bytes(), Trainer.run

    def damage_meanwhile(trainer):
        finished = run_trainer(trainer)
        path.write_bytes(b"not a picture")
        return finished

    monkeypatch.setattr(Trainer, "run", damage_meanwhile)
    run = tmp_path / "run"
    with pytest.raises(UserError, match="does not decode") as caught:
        running.train(config, device=CPU)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert f"scripts/evaluate.py run={run} output={run / 'test.json'}" in str(caught.value)
    assert (run / "model.safetensors").exists() and not (run / "test.json").exists()
    path.write_bytes(picture)
    words = [f"run={run}", f"output={run / 'test.json'}", "workers=0"]
    figures = evaluating.evaluate_run(compose(*words, name="evaluate"))
    assert json.loads((run / "test.json").read_text()) == figures


def test_pictures_and_tables_that_fail_are_a_line_each(configuration, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("no\nroom")

    monkeypatch.setattr(running, "make_logger", lambda *_: Pictures())
    monkeypatch.setattr(examples, "top_k", fail)
    monkeypatch.setattr(examples, "save_figure", fail)
    figures = running.train(configuration(), device=CPU)
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == figures and figures
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 3 and all(line.endswith("left out: ValueError: no room") for line in lines)
    assert lines[0].startswith("the table of retrieved images") and lines[1].startswith("the attention plot of")


@pytest.mark.parametrize(("classes", "train", "test"), [(1, 6, 1), (3, 2, 1)])
def test_one_class_or_one_image_of_each_has_figures_that_are_finite(
    classes, train, test, configuration, make_cub_folder, compose, tmp_path, monkeypatch
):
    """A single class, fewer images than the k of recall@k, fewer captions than a table of retrieved images has."""
    logger = Pictures()
    monkeypatch.setattr(running, "make_logger", lambda *_: logger)
    root = make_cub_folder(classes=classes, train=train, test=test)
    figures = running.train(configuration("data.batch_size=2", root=root), device=CPU)
    assert figures and all(0 <= figure < float("inf") for figure in figures.values())
    assert figures["text_to_image/image/recall@10"] == 1
    rows, columns = logger.tables["retrieved"]
    assert rows and all(len(row) == len(columns) for row in rows)
    asked = ("suite=robustness", "corruptions=[resolution,rain]", "severities=[5]")
    words = [f"run={tmp_path / 'run'}", "workers=0", *asked]
    robust = evaluating.evaluate_run(compose(*words, name="evaluate"))
    assert 0 <= robust["resolution/5/text_to_image/class/recall@1"] <= 1


# ---------------------------------------------------------------- discovery


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    from meru.data.synthetic.birds.load import draw_birds

    return draw_birds(tmp_path_factory.mktemp("finishing") / "birds", images_per_species=3, image_size=32)


@pytest.fixture
def discovery(compose, birds, tmp_path):
    def make(*overrides):
        return compose(
            "experiment=birds_hypgcd", f"data.root={birds}", "+data.load_discovery.images_per_species=3",
            "+data.load_discovery.image_size=32", "encoder.image.image_size=32", "model.projection_width=16",
            "model.projection_dimension=8", "data.batch_size=16", "data.workers=0",
            "trainer.epochs=1", "logger=none",
            f"folder={tmp_path / 'run'}", *overrides,
        )  # fmt: skip

    return make


def test_more_classes_than_images_leave_out_k_means_alone(discovery, tmp_path, caplog):
    figures = running.train(discovery("discovery.num_classes=300"), device=CPU)
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == figures
    assert {"discovery/all/accuracy", "inductive/all/accuracy"} <= figures.keys()
    assert not any(name.startswith("kmeans") for name in figures)
    assert "k-means left out: ValueError: 300 clusters of" in caplog.text


def test_images_of_discovery_that_are_all_skipped_have_no_figures(discovery, monkeypatch, caplog):
    config = discovery("discovery.num_classes=48")
    task = Discovery(config, device=CPU)
    monkeypatch.setattr(task, "features", lambda *_: {})
    figures, answer = task.evaluate(build(config))
    assert figures == {} and answer.trees.trees == {}
    assert f"none of the {len(task.data.test)} test images decodes: no figures for them" in caplog.text


def test_trees_and_pictures_that_fail_leave_the_figures(discovery, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("no tree")

    monkeypatch.setattr("meru.tasks.discovery.class_trees", fail)
    figures = running.train(discovery(), device=CPU)
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == figures and "kmeans/all/accuracy" in figures
    assert caplog.text.count("the trees of classes left out: ValueError: no tree") == 1


def test_figures_of_discovery_that_fail_leave_the_weights(discovery, tmp_path, monkeypatch):
    monkeypatch.setattr(finishing, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left", "x")))
    with pytest.raises(UserError, match=r"No space left .*safetensors; to compute its figures later: python scripts"):
        running.train(discovery(), device=CPU)
    assert (tmp_path / "run" / "model.safetensors").exists() and not (tmp_path / "run" / "test.json").exists()


@pytest.mark.parametrize("families", [None, ("a", "a", "b", "b")])
def test_trees_are_coloured_and_judged_by_family_only_where_the_data_have_families(families, tmp_path):
    points = torch.tensor([[1.0, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]])
    pictures, nothing = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.bool)
    split = DiscoverySplit(pictures, torch.arange(4), nothing)
    data = DiscoveryData(("w $x^", "x", "y", "z"), 2, split, split, families=families)
    seen = {"features": points, "label": torch.arange(4), "prediction": torch.arange(4), "labelled": split.labelled}
    trees = class_trees(data, seen, model=None)
    expected = {"feature_tree/dendrogram_purity": 1.0} if families else {}
    figures = purities(trees)
    assert {name: value for name, value in figures.items() if "chance" not in name} == expected
    save_trees(tmp_path / "tree", trees)
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {
        "feature_tree.nwk", "feature_tree.json", "feature_tree.png",
    }  # fmt: skip
    figure = dendrogram_figure(trees.trees["feature_tree"], families or range(4))
    colours = {tuple(colour) for colour in figure.axes[0].collections[0].get_colors()}
    assert len(colours) == (2 if families else 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["discovery.sampler=neighbours", "discovery.neighbours=1000"], "discovery.neighbours=1000: there are"),
        (["discovery.num_classes=estimate", "discovery.maximum_classes=1000"], "cannot be estimated from"),
        (["discovery.num_classes=estimate", "discovery.maximum_classes=3"], "cannot be estimated from"),
    ],
)
def test_numbers_that_the_images_are_too_few_for_are_refused(overrides, message, discovery):
    with pytest.raises(UserError, match=message):
        running.train(discovery(*overrides), device=CPU)


# ---------------------------------------------------------------- texts and names

ODD = ["$x^", "a_b\\", "红色的鸟", "w" * 300, "a\nb", "a\0b", "\ud800", "${"]


def test_texts_in_pictures_are_drawn_as_they_are(tmp_path):
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    tree = class_tree(0.1 * torch.eye(8), 0.1, ODD)
    figures = {
        "attention": attention_figure(image, ODD, torch.ones(8, 4), title=" ".join(ODD)),
        "dendrogram": dendrogram_figure(tree, ["$a"] * 4 + ["_\\"] * 4, title="$"),
        "disk": poincare_disk_figure(tree, ["$a"] * 4 + ["_\\"] * 4, title="$"),
    }
    titles = [axis.get_title() for axis in figures["attention"].axes if axis.get_title()]
    assert titles == ["$x^", "a_b\\", "红色的鸟", "w" * 20 + " …", "a b", "a�b", "�", "${"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in figures.items():
            save_figure(figure, tmp_path / f"{name}.png")
            with Image.open(tmp_path / f"{name}.png") as picture:
                assert picture.size[0] > 300


def test_a_long_text_is_cut_by_its_width():
    assert printable("a bird  with\twings", width=18) == "a bird with wings"
    assert printable("红色的鸟", width=8) == "红色的鸟" and printable("红色的鸟", width=7) == "红色的 …"


def test_names_of_pictures_fit_every_file_system():
    assert safe_name("Black_Footed.Albatross-0001 (1)") == "Black_Footed.Albatross-0001_1_"
    assert safe_name('a/b\\c:"*?<>|\0\n') == "a_b_c_" and safe_name("\udcff.x") == "_.x"
    assert len(safe_name("鸟" * 300).encode()) <= 150
