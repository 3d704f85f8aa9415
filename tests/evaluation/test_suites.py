"""`scripts/evaluate.py suite= data=`: one tiny run, and data sets that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import meru
from meru.data.datasets.labelled_own import of_pairs
from meru.data.records import ImageTextData
from meru.errors import UserError
from meru.evaluation.suites import SUITES
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train

SMALL = (
    "data=cub", "encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
    "trainer.epochs=1", "data.batch_size=6", "data.workers=0", "logger=none", "evaluation.attention_pictures=0",
    "optim.learning_rate=1e-3", "model.norm_exponent=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(compose, cub_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    words = [*SMALL, f"data.root={cub_folder}", f"folder={folder}"]
    train(compose("experiment=birds_meru", *words), device=torch.device("cpu"))
    return folder


@pytest.fixture
def evaluated(compose, run):
    def evaluate(*words: str) -> dict:
        return evaluate_run(compose(f"run={run}", "workers=0", *words, name="evaluate"))

    return evaluate


@pytest.fixture
def class_folders(tmp_path) -> Path:
    """Two classes in `train/` and three images of each in `test/`."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name, colour in (("red_square", (200, 30, 30)), ("green_square", (30, 200, 30))):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                picture = np.clip(np.array(colour) + generator.integers(-20, 20, (32, 40, 3)), 0, 255)
                Image.fromarray(picture.astype(np.uint8)).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_class_folders_are_classified_and_the_figures_are_named_after_the_data(evaluated, class_folders, run):
    figures = evaluated("suite=zero_shot", "data=image_folder", f"root={class_folders}")
    assert figures["zero_shot/images"] == 6 and figures["classes"] == 2
    assert figures["zero_shot/chance_accuracy@1"] == figures["zero_shot/class_mean/chance_accuracy@1"] == 0.5
    assert "zero_shot/accuracy@5" not in figures
    assert json.loads((run / "zero_shot_image_folder.json").read_text()) == figures
    assert (run / "zero_shot_image_folder.png").is_file()
    of_training = evaluated("suite=zero_shot", "data=image_folder", f"root={class_folders}", "split=train")
    assert of_training["zero_shot/images"] == 12


@pytest.mark.parametrize("features", ["tower", "tangent"])
def test_a_linear_probe_separates_colours(features, evaluated, class_folders):
    figures = evaluated(
        "suite=linear_probe", "data=image_folder", f"root={class_folders}", f"probe_features={features}"
    )
    assert figures["linear_probe/accuracy@1"] == figures["linear_probe/class_mean/accuracy@1"] == 1
    assert figures["linear_probe/training_images"] == 12


def test_a_hierarchy_comes_from_a_list_or_from_families(evaluated, class_folders, tmp_path):
    with pytest.raises(UserError, match=r"needs a hierarchy of the classes: data\.parents=<file>"):
        evaluated("suite=hierarchy", "data=image_folder", f"root={class_folders}")
    parents = tmp_path / "parents.csv"
    parents.write_text("child,parent\nred_square,warm\ngreen_square,cold\nwarm,colour\ncold,colour\n")
    words = ("suite=hierarchy", "data=image_folder", f"root={class_folders}", f"++data.parents={parents}")
    figures = evaluated(*words)
    accuracy = figures["zero_shot/accuracy@1"]
    assert figures["hierarchy/tree_induced_error"] == pytest.approx(4 * (1 - accuracy))
    assert figures["hierarchy/lowest_common_ancestor"] == pytest.approx(accuracy + 3 * (1 - accuracy))
    assert figures["hierarchy/jaccard"] == pytest.approx(accuracy + (1 - accuracy) / 5)
    assert figures["hierarchy/chance_tree_induced_error"] == 2
    parents.write_text("red_square,warm\n")
    with pytest.raises(UserError, match=r"has no line for the class green_square \(1 of 2"):
        evaluated(*words)
    by_name = evaluated("suite=hierarchy", "data=image_folder", f"root={class_folders}", "data.families=last_word")
    assert by_name["hierarchy/chance_tree_induced_error"] == 1  # red square, green square: one family


def test_captions_without_classes_are_not_taken_for_persons():
    with pytest.raises(UserError, match="captions but no classes"):
        of_pairs(ImageTextData((), (), (), (), class_kind="image"))


def test_the_data_of_the_run_serve_without_another_name(evaluated, run, cub_folder):
    figures = evaluated("suite=zero_shot")
    assert figures["classes"] == 3 and (run / "zero_shot.json").is_file()
    families = evaluated("suite=hierarchy", "data=cub", f"root={cub_folder}", "data.families=last_word")
    assert families["zero_shot/images"] == figures["zero_shot/images"]
    assert evaluated("suite=geometry", "data=cub", f"root={cub_folder}").keys() == evaluated("suite=geometry").keys()


def test_parts_are_pointed_at_on_other_data(evaluated, cub_folder, tmp_path, make_cub_folder):
    other = make_cub_folder()
    for path in other.glob("text_c10/*/*.txt"):
        path.write_text("a bird with a black beak\n" * 10)
    figures = evaluated("suite=pointing", "data=cub", f"root={other}")
    assert figures["pointing/beak/chance_accuracy@1"] > 0 and figures["pointing/mentions"] > 0
    with pytest.raises(UserError, match="no caption of the split names a visible part"):
        evaluated("suite=pointing", "data=cub", f"root={cub_folder}")


def test_several_labels_are_ranked_by_class(evaluated, voc_folder):
    figures = evaluated("suite=multilabel", "data=voc2007", f"root={voc_folder}")
    assert figures["multilabel/classes"] == 2 and figures["multilabel/images"] == 4
    assert 0 < figures["multilabel/mean_average_precision"] <= 1
    assert figures["multilabel/cat/chance_average_precision"] == pytest.approx(1 / 3)  # one of four is undecided
    with pytest.raises(UserError, match="split=train: these data are read for the test only"):
        evaluated("suite=multilabel", "data=voc2007", f"root={voc_folder}", "split=train")


@pytest.fixture
def voc_folder(tmp_path) -> Path:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 32), (60 * number, 90, 40)).save(folder / "JPEGImages" / f"00000{number}.jpg")
    for name, values in {"aeroplane": (1, -1, -1, 1), "cat": (-1, 1, 0, -1), "dog": (-1, -1, -1, -1)}.items():
        lines = [f"00000{number} {value:2d}\n" for number, value in enumerate(values)]
        (folder / "ImageSets" / "Main" / f"{name}_test.txt").write_text("".join(lines))
    return folder.parent


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["suite=zero_shot", "data=voc2007"], "suite=zero_shot needs labelled images, .* such as data=aircraft"),
        (["suite=multilabel"], "suite=multilabel needs images with several labels, .* data=coco_objects, data=voc"),
        (["suite=geometry", "data=image_folder"], "suite=geometry needs images with captions, .* such as data=birds"),
        (["data=image_folder"], "this data set has labels and no captions: it is for suites"),
        (["suite=zero_shot", "data=image_folder", "split=validation"], "split=validation: the data have no validation"),
        (["suite=zero_shot", "data=food101"], "no food101: .* does not hold a complete copy"),
        (["suite=zero_shot", "data=eurosat"], "no eurosat: .* holds no AnnualCrop"),
        (["suite=zero_shot", "data=imagenet1k"], "no ImageNet: .* holds no val"),
        (["suite=multilabel", "data=coco_objects"], "no COCO: .* holds no annotations/instances_val2017.json"),
        (["suite=zero_shot", "data=image_folder", "templates=['no place']"], "has no {}"),
    ],
)
def test_unsuitable_data_get_one_line(words, message, evaluated, class_folders):
    with pytest.raises(UserError, match=message) as raised:
        evaluated(*words, *([f"root={class_folders}"] if any("data=" in word for word in words) else []))
    assert "\n" not in str(raised.value)


def test_every_suite_has_what_the_script_calls():
    for suite in SUITES.values():
        assert callable(suite.evaluate) and callable(suite.table) and callable(suite.picture)


def test_a_class_is_the_lift_of_the_mean_of_its_tangent_vectors(run):
    """What the protocol asks for, on the model of a run; a mean of points in the ambient space is not the same."""
    pretrained = meru.load(run)
    model = pretrained.model
    tokens = pretrained.tokenizer.batch(["a photo of a bird.", "a red bird in a tree", "fish"])
    with torch.no_grad():
        averaged = model.average(model.embed_text(tokens))
        lifted = model.lift_text(model.text_features(tokens).mean(dim=0, keepdim=True))
    torch.testing.assert_close(averaged, lifted[0], rtol=1e-4, atol=1e-5)
