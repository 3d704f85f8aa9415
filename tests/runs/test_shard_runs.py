"""Runs on shards: resumed to the same bits, without a validation split, and on boxes with phrases."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from shard_files import write_tar

from meru.errors import UserError
from meru.runs.train import train

CPU = torch.device("cpu")


def jpeg(shade):
    content = io.BytesIO()
    Image.new("RGB", (40, 36), (shade, 60, 99)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Four shards of five samples with GRIT's boxes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for shard in range(4):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for sample in range(5):
                caption = f"a bird of kind {shard} in place {sample}"
                facts = {"caption": caption, "noun_chunks": [[2, 6, 0.1, 0.1, 0.6, 0.7, 0.9]]}
                for ending, content in (
                    ("jpg", jpeg(50 * shard + 9 * sample)),
                    ("txt", caption.encode()),
                    ("json", json.dumps(facts).encode()),
                ):
                    member = tarfile.TarInfo(f"{shard}_{sample}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return tmp_path


@pytest.fixture
def configure(compose, shards):
    def configuration(*overrides, name="run"):
        return compose(
            "data=shards", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "logger=none",
            f"data.root={shards}", "data.urls='{0..3}.tar'", "data.streams=2",
            "data.batch_size=4", "data.workers=0", "trainer.epochs=1", f"folder={shards / name}", *overrides,
        )  # fmt: skip

    return configuration


def weights(configuration):
    return torch.load(Path(configuration.folder) / "last.pt", weights_only=True)["model"]


def test_a_run_resumed_with_other_workers_ends_with_the_same_bits(configure, train_until_step_3):
    whole = configure("data.workers=2", name="whole")
    train(whole, device=CPU)
    parted = configure("data.workers=2", "trainer.checkpoint_every=3", name="parted")
    train_until_step_3(parted)
    parted.resume, parted.data.workers = parted.folder, 0
    train(parted, device=CPU)
    expected = weights(whole)
    assert all(torch.equal(expected[name], value) for name, value in weights(parted).items())


def test_a_run_is_not_resumed_with_other_shards(configure, train_until_step_3, shards):
    configuration = configure("trainer.checkpoint_every=3")
    train_until_step_3(configuration)
    (shards / "3.tar").rename(shards / "4.tar")
    configuration.resume, configuration.data.urls = configuration.folder, "*.tar"
    configuration.data.load.urls = "*.tar"
    with pytest.raises(UserError, match="the shards or their samples are not those"):
        train(configuration, device=CPU)


def test_boxes_of_grit_become_parts(configure):
    configuration = configure(
        "model=hycoclip", "data.boxes_field=json.noun_chunks", "data.validation_urls=3.tar", "data.urls='{0..2}.tar'"
    )
    train(configuration, device=CPU)
    lines = (Path(configuration.folder) / "metrics.jsonl").read_text().splitlines()
    assert any("validation/text_to_image/image/recall@1" in json.loads(line) for line in lines)


@pytest.mark.parametrize("model", ["hycoclip", "uncha"])
def test_crops_with_their_own_texts_become_parts(configure, shards, model):
    """In the layout of HyCoCLIP's training data."""
    for shard in range(4):
        samples = {}
        for number in range(5):
            files = {"child.jpg": jpeg(50 * number), "child.txt": f"a bird {shard} {number}", "numparents.txt": 1}
            samples[f"{number:09d}"] = {**files, "parent000.jpg": jpeg(99), "parent000.txt": "a bird"}
        write_tar(shards / f"{shard}.tar", samples)
    configuration = configure(
        f"model={model}", "data.image_field=child.jpg", "data.caption_field=child.txt", "data.boxes_field='parent*'",
        "data.urls='{0..2}.tar'", "data.validation_urls=3.tar",
    )  # fmt: skip
    train(configuration, device=CPU)
    lines = (Path(configuration.folder) / "metrics.jsonl").read_text().splitlines()
    assert any("validation/text_to_image/image/recall@1" in json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.cached_views=2"], "data.cached_views=2"),
        (["loss.category.weight=1"], "loss.category.weight: it needs classes"),
        (["data.streams=5"], "4 shards are fewer than 1 processes × data.streams=5"),
        (["model=hycoclip"], "trains on parts of images: set data.boxes_field"),
    ],
)
def test_what_does_not_apply_is_refused_before_the_run(configure, overrides, message):
    configuration = configure(*overrides)
    with pytest.raises(UserError, match=message) as error:
        train(configuration, device=CPU)
    assert "\n" not in str(error.value)
    assert not Path(configuration.folder).exists()
