"""One finished run on other data than its own: retrieval, entailment, persons and discovery, each on a tiny copy."""

import json
import shutil

import pytest
import torch

from meru.errors import UserError
from meru.evaluation.persons import format_persons
from meru.reports.bars import bars_figure
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train
from meru.runs.transfer import transfer_tables


@pytest.fixture(scope="module")
def run(compose, cub_folder, tmp_path_factory):
    """A finished run of MERU on birds in CUB's layout."""
    folder = tmp_path_factory.mktemp("suites") / "run"
    config = compose(
        "experiment=birds_meru", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
        "data.load._target_=meru.data.datasets.cub.load_cub", f"data.root={cub_folder}", "data.batch_size=4",
        "data.workers=0", "trainer.epochs=1", "logger=none", f"folder={folder}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    return folder


def again(compose, run, *words):
    return evaluate_run(compose(f"run={run}", "workers=0", *words, name="evaluate"))


def files_of(cub_folder):
    return sorted((cub_folder / "images").rglob("*.jpg"))


def test_retrieval_on_a_copy_of_coco(run, compose, cub_folder, tmp_path, caplog):
    (tmp_path / "val2014").mkdir()
    images = []
    for number, file in enumerate(files_of(cub_folder)[:5]):
        name = f"COCO_val2014_{number:012d}.jpg"
        shutil.copy(file, tmp_path / "val2014" / name)
        captions = [{"raw": f"a bird number {number}."}, {"raw": f"{number} is its number"}]
        images.append({"filepath": "val2014", "filename": name, "split": "test", "sentences": captions})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    caplog.set_level("INFO")
    figures = again(compose, run, "suite=retrieval", "data=coco", f"data.root={tmp_path}")
    assert figures["images"] == 5 and figures["captions"] == 10
    assert figures["text_to_image/image/chance_recall@1"] == pytest.approx(0.2)
    assert figures["image_to_text/image/chance_recall@1"] == pytest.approx(0.2)
    assert figures["image_to_text/image/recall@10"] == 1
    assert json.loads((run / "retrieval_coco.json").read_text()) == figures
    assert (run / "retrieval_coco.png").stat().st_size > 1000
    assert "test split of coco, run" in caplog.text and "resized to a square" in caplog.text


def test_entailment_on_a_copy_of_hierarcaps(run, compose, cub_folder, tmp_path):
    images, data = tmp_path / "assets" / "test_imgs", tmp_path / "data"
    images.mkdir(parents=True)
    data.mkdir()
    lines = ["id,captions,image_url"]
    for number, file in enumerate(files_of(cub_folder)[:4]):
        name = f"COCO_val2014_{number:012d}.jpg"
        shutil.copy(file, images / name)
        captions = " => ".join(["bird", f"bird {number % 2}", f"bird {number}", f"A bird, number {number}."])
        lines.append(f'{number},"{captions}",http://images.cocodataset.org/val2014/{name}')
    (data / "hierarcaps_test.csv").write_text("\n".join(lines) + "\n")
    figures = again(compose, run, "suite=entailment", "data=hierarcaps", f"data.root={tmp_path}")
    assert figures["positive_pairs"] == 16 and figures["negative_pairs"] == 12
    assert 0 <= figures["margin/area_under_roc"] <= 1 and figures["clamped/share_of_ties"] > 0
    assert (run / "entailment_hierarcaps.json").is_file()
    table = data / "hierarcaps_test.csv"
    path = ["suite=entailment", "data=hierarcaps", f"data.path={table}", f"data.images={images}"]
    assert again(compose, run, *path) == figures  # without a folder of the whole


def test_persons_and_a_table_of_what_was_trained_and_tested_on_what(run, compose, person_folder, tmp_path):
    words = ["data=pedestrians", f"data.root={person_folder}"]
    words += ["+data.load.identities=13", "+data.load.images_per_identity=1"]
    figures = again(compose, run, "suite=persons", *words)
    assert figures["identities"] == figures["image_to_text/identity/queries"]
    assert figures["text_to_image/identity/mean_average_precision"] > 0
    assert "persons, " in format_persons(figures, "test split")
    shown = f"{100 * figures['text_to_image/identity/recall@1']:.1f}"
    assert f"| birds_meru_from_scratch | birds | {shown} |" in transfer_tables([run], "persons")
    with pytest.raises(UserError, match="these data have no identities"):
        again(compose, run, "suite=persons")
    with pytest.raises(UserError, match="choose suite=persons"):
        again(compose, run, "suite=retrieval", *words)
    with pytest.raises(UserError, match="has no retrieval_<data>.json: write it with python scripts/evaluate.py"):
        shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("retrieval*"))
        transfer_tables([tmp_path / "bare"], "retrieval")


def test_discovery_by_an_image_text_run(run, compose, cub_folder, caplog):
    caplog.set_level("INFO")
    words = ["data=cub", f"data.root={cub_folder}", "data.old_classes=[002.Red_bird_0,005.Green_bird_1]"]
    figures = again(compose, run, "suite=discovery", *words)
    assert figures["true_num_classes"] == 3 and figures["kmeans/new/images"] == 4
    assert {"kmeans/all/accuracy", "kmeans_embedded/old/accuracy"} <= figures.keys()
    assert "unlabelled images of cub, run" in caplog.text


def test_a_data_set_that_is_not_there_is_one_line(run, compose, tmp_path):
    for words, said in (
        (["suite=retrieval", "data=flickr30k", f"data.root={tmp_path / 'no'}"], "are not at"),
        (["suite=entailment", "data=hierarcaps", f"data.root={tmp_path}"], "holds no hierarcaps_test.csv"),
        (["suite=entailment"], "captions from coarse to fine"),
        (["suite=discovery", "data=rstpreid", f"data.root={tmp_path}"], "needs images of old and new classes"),
    ):
        with pytest.raises(UserError, match=said) as error:
            again(compose, run, *words)
        assert "\n" not in str(error.value)


def test_a_bar_for_every_figure_and_a_line_for_every_chance_level():
    figures = {"a/recall@1": 0.5, "a/chance_recall@1": 0.1, "b/recall@1": None}
    axes = bars_figure(figures, "title", rows={"first": "a", "second": "b"}, columns={"R@1": "recall@1"}).axes[0]
    assert [patch.get_height() for patch in axes.patches] == [50] and axes.lines[0].get_ydata()[0] == 10
