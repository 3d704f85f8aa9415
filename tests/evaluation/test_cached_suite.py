"""Suites of runs with cached views read every corrupted image once, and give the figures of the images."""

import json
import logging
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from meru.assemble import build
from meru.data.corruptions.families import Corruption
from meru.errors import UserError
from meru.evaluation.suite import Subject
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train

DEVICE = torch.device("cpu")
SMALL = (
    "experiment=cub_mobilenetv2_meru",
    "encoder.image.name=mobilenetv2_035",
    "encoder.image.arguments=null",
    "encoder.image.image_size=64",
    "encoder.text.architecture=L1_W16_A1",
    "encoder.embedding_dimension=32",
    "data.validation_fraction=0.25",
    "data.batch_size=4",
    "data.workers=0",
    "data.cached_views=2",
    "trainer.epochs=1",
    "logger=none",
)
ASKED = ("suite=robustness", "corruptions=[fog,resolution]", "severities=[1,4]", "workers=0")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_035.safetensors"
    save_file(timm.create_model("mobilenetv2_035", num_classes=0).state_dict(), path)
    return path


@pytest.fixture
def configuration(compose, cub_folder, weights, tmp_path):
    def make(*overrides, folder="run", root=cub_folder):
        places = {"encoder.image.weights": weights, "data.root": root, "data.cache": tmp_path / "cache"}
        given = [f"{key}={path}" for key, path in {**places, "folder": tmp_path / folder}.items()]
        return compose(*SMALL, *given, *overrides)

    return make


def files(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.bin")}


def test_figures_are_those_of_the_images_and_runs_share_the_files(configuration, compose, tmp_path, caplog):
    for folder, seed in (("first", 0), ("second", 1)):
        train(configuration(f"seed={seed}", folder=folder), device=DEVICE)
    before = files(tmp_path)
    run = tmp_path / "first"
    cached = evaluate_run(compose(f"run={run}", *ASKED, name="evaluate"))
    assert json.loads((run / "robustness.json").read_text()) == cached
    added = files(tmp_path).keys() - before.keys()
    assert len(added) == 4  # families × severities; the images as they are were cached in training
    plain = evaluate_run(compose(f"run={run}", *ASKED, "+data.cached_views=0", name="evaluate"))
    assert plain.keys() == cached.keys()
    for name in plain:
        if name.endswith("/radius"):
            assert cached[name] == pytest.approx(plain[name], rel=1e-3), name
    shares = [abs(cached[name] - plain[name]) for name in plain if name.endswith("/recall@1")]
    assert sum(shares) / len(shares) < 0.02
    after = files(tmp_path)
    evaluate_run(compose(f"run={tmp_path / 'second'}", *ASKED, name="evaluate"))
    assert files(tmp_path) == after  # nothing is read again
    evaluate_run(compose(f"run={run}", *ASKED[:2], "severities=[1,4,5]", "workers=0", name="evaluate"))
    assert len(files(tmp_path)) == len(after) + 2


def subject(config, **section):
    pretrained = build(config)
    pretrained.model.eval()
    return Subject(pretrained, None, {**config.data, **section}, {"batch_size": 2, "split": None}, DEVICE)


def rows_of(of, paths, change):
    known = {"class_index": torch.arange(len(paths))}
    return list(of.batches(paths, known, change, rows=True))


def test_rows_of_batches_are_those_of_the_images_in_order(configuration, cub_folder):
    paths = sorted(Path(cub_folder).rglob("*.jpg"))[:5]
    config = configuration()
    with_cache, without = subject(config), subject(config, cached_views=0)
    change = Corruption("viewpoint", 3)
    cached, read = (rows_of(each, paths, change) for each in (with_cache, without))
    assert len(cached) == len(read) == 3
    model = with_cache.model
    for one, other in zip(cached, read, strict=True):
        assert one["image"].dtype == torch.float16 and one["image"].dim() == 2
        assert all(torch.equal(one[name], other[name]) for name in ("class_index", "image_index"))
        with torch.no_grad():
            points = [model.embed_image(each["image"]) for each in (one, other)]
        assert torch.allclose(*points, rtol=1e-2, atol=2e-3)
    assert not torch.equal(cached[0]["image"], rows_of(with_cache, paths, None)[0]["image"])
    assert not torch.equal(cached[0]["image"], rows_of(with_cache, paths, Corruption("viewpoint", 4))[0]["image"])


def test_a_suite_that_does_not_ask_for_rows_gets_images(configuration, cub_folder):
    paths = sorted(Path(cub_folder).rglob("*.jpg"))[:2]
    (batch,) = subject(configuration()).batches(paths, {"class_index": torch.arange(2)})
    assert batch["image"].dtype == torch.uint8


def test_a_change_that_cannot_be_named_is_not_cached(configuration, cub_folder, tmp_path):
    paths = sorted(Path(cub_folder).rglob("*.jpg"))[:2]
    (batch,) = rows_of(subject(configuration()), paths, lambda image: 255 - image)
    assert batch["image"].dtype == torch.uint8 and not files(tmp_path)


def test_where_images_may_be_skipped_every_image_is_read(configuration, cub_folder, tmp_path):
    paths = sorted(Path(cub_folder).rglob("*.jpg"))[:3]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    of = subject(configuration(), on_error="skip")
    batches = rows_of(of, [paths[0], broken, *paths[1:]], Corruption("fog", 1))
    assert torch.cat([batch["image_index"] for batch in batches]).tolist() == [0, 2, 3] and not files(tmp_path)


def test_an_image_that_does_not_decode_is_one_line(configuration, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(UserError, match="broken.jpg") as error:
        rows_of(subject(configuration()), [broken], Corruption("fog", 1))
    assert "\n" not in str(error.value)


def test_a_changed_image_has_rows_of_its_own(configuration, tmp_path):
    path = tmp_path / "one.png"
    rows = []
    for level in (40, 200):
        Image.new("RGB", (70, 64), (level, 90, 10)).save(path)
        rows.append(rows_of(subject(configuration()), [path], Corruption("fog", 1))[0]["image"])
    assert not torch.equal(*rows) and len(files(tmp_path)) == 2


def test_without_a_folder_to_write_to_every_image_is_read(configuration, cub_folder, tmp_path, caplog):
    """A run from another machine names a folder that this one does not have."""
    (tmp_path / "file").touch()
    paths = sorted(Path(cub_folder).rglob("*.jpg"))[:2]
    with caplog.at_level(logging.INFO, logger="meru"):
        (batch,) = rows_of(subject(configuration(), cache=str(tmp_path / "file" / "cache")), paths, None)
    assert batch["image"].dtype == torch.uint8


# ---------------------------------------------------------------- training with corruptions


def test_runs_with_corruptions_have_cached_views_of_their_own(configuration, tmp_path):
    corrupted = ("data.corruptions=[night,fog]", "data.corruption_share=1")
    train(configuration(folder="plain"), device=DEVICE)
    before = files(tmp_path)
    train(configuration(*corrupted, folder="corrupted"), device=DEVICE)
    assert len(files(tmp_path)) == len(before) + 1  # the views for training, not the images for evaluation
    after = files(tmp_path)
    train(configuration(*corrupted, "seed=1", folder="other"), device=DEVICE)
    assert files(tmp_path) == after
    train(configuration("data.corruptions=[night]", folder="night"), device=DEVICE)
    train(configuration("data.corruptions=[night]", "data.corruption_share=0.25", folder="few"), device=DEVICE)
    assert len(files(tmp_path)) == len(after) + 2


@pytest.mark.parametrize("experiment", ["birds_meru", "birds_simgcd", "pedestrians_gahr"])
def test_every_kind_of_data_can_be_corrupted(experiment, compose):
    words = ["data.corruptions=[occlusion]", "data.corruption_share=1", "encoder.image.image_size=64"]
    if experiment == "pedestrians_gahr":
        words[-1] = "encoder.image.image_size=[64,32]"
    config = compose(f"experiment={experiment}", *words)
    if config.get("discovery"):
        config.discovery.num_classes = 4
    transform = build(config).transforms.training
    image = torch.full((3, 90, 60), 20, dtype=torch.uint8)
    torch.manual_seed(0)
    seen = transform(image)
    assert seen.shape[1:] == torch.Size((64, 32) if experiment == "pedestrians_gahr" else (64, 64))
    assert (seen == 128).any()
