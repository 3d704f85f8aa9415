"""Runs on one's own images: without classes there are no figures of classes; boxes with phrases are learned from."""

import json

import pytest
import torch
from PIL import Image

from meru.configuration import check
from meru.errors import UserError
from meru.runs.train import train
from meru.tasks.image_text import ImageText

SMALL = (
    "data.workers=0", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "data.batch_size=4",
    "trainer.epochs=1", "trainer.evaluate_every=1", "logger=none",
)  # fmt: skip


@pytest.fixture
def table(tmp_path):
    rows = []
    for number in range(12):
        Image.new("RGB", (20, 20), (20 * number, 99, 9)).save(tmp_path / f"{number}.png")
        boxes = [{"box": [2, 3, 9, 9], "phrase": f"part {number}"}]
        rows.append({"image": f"{number}.png", "caption": f"image {number}", "boxes": boxes, "kind": number % 2})
    (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path / "images.jsonl"


def test_without_classes_images_are_retrieved_and_boxes_are_parts(table, compose, tmp_path):
    config = compose("data=pairs", "model=hycoclip", f"data.path={table}", f"folder={tmp_path / 'run'}", *SMALL)
    check(config, command="train")
    figures = train(config, device=torch.device("cpu"))
    assert 0 <= figures["text_to_image/image/recall@1"] <= 1
    assert not [name for name in figures if "class" in name or "zero_shot" in name]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("text_to_image/image/recall@1" in key for line in lines for key in line)
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert "monitor: text_to_image/image/recall@1" in saved
    batch = next(iter(ImageText(config, device=torch.device("cpu")).data.train))
    assert batch.regions[0].phrase.startswith("part")


def test_the_figure_that_selects_the_weights_depends_on_the_classes(table, compose):
    device = torch.device("cpu")
    classless = ImageText(compose("data=pairs", f"data.path={table}"), device=device)
    assert classless.complete_config().trainer.monitor == "text_to_image/image/recall@1"
    assert "without classes" in classless.describe()
    classes = ImageText(compose("data=pairs", f"data.path={table}", "data.columns.class=kind"), device=device)
    assert classes.complete_config().trainer.monitor == "text_to_image/class/recall@1"
    chosen = compose("data=pairs", f"data.path={table}", "trainer.monitor=zero_shot/accuracy@1")
    with pytest.raises(UserError, match="trainer.monitor=zero_shot/accuracy@1: these data have no classes"):
        ImageText(chosen, device=device).complete_config()


def test_a_path_is_needed(compose):
    with pytest.raises(UserError, match="^data.path=null: give the path of a file or folder$"):
        check(compose("data=pairs"), command="train")
