"""A tiny data set in the layout of CUB_200_2011 for every test that needs pictures."""

from __future__ import annotations

import copy
import functools
import json
import logging
import runpy
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import save_file
from warm_python import warm_environment

from meru.configuration import composing
from meru.files import PROJECT

torch.set_num_threads(1)
# Most of composing a configuration is reading YAML, which PyYAML does in Python unless it is told otherwise.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Fail a test that leaves torch more threads: with several, the training of later tests is not reproducible."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1, f"this test leaves torch {left} threads; restore the number"


PREPARE_DATA = PROJECT / "scripts" / "prepare_data.py"
PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape", "right eye",
    "right leg", "right wing", "tail", "throat",
)  # fmt: skip
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 40), "blue": (40, 40, 200), "yellow": (210, 200, 40)}


@pytest.fixture(scope="session")
def cub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes with four training and two test images each; shared by all tests, to be read only."""
    return write_cub_folder(tmp_path_factory.mktemp("cub") / "CUB_200_2011")


@pytest.fixture(scope="session")
def warm_python() -> Iterator[Path]:
    """A Python for the project's scripts that starts at once, see warm_python.py; its prefix is two folders up."""
    with warm_environment() as prefix:
        yield prefix / "bin" / "python"


@pytest.fixture
def train_until_step_3(monkeypatch: pytest.MonkeyPatch) -> Callable[[DictConfig], None]:
    """Trains by a configuration whose run saves a checkpoint at step 3, and interrupts the run just after."""
    from meru.runs.train import train
    from meru.training.trainer import Trainer

    save = Trainer._save

    def save_then_stop(trainer: Trainer) -> None:
        save(trainer)
        if trainer.step == 3:
            raise KeyboardInterrupt

    def run(config: DictConfig) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "_save", save_then_stop)
            with pytest.raises(KeyboardInterrupt):
                train(config, device=torch.device("cpu"))

    return run


@pytest.fixture(scope="session")
def cub_run(cub_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MERU on the tiny CUB; to be read only."""
    from meru.runs.train import train

    config = composed(
        "data=cub", "model=meru", "encoder=small", "encoder.image.image_size=32", f"data.root={cub_folder}",
        "encoder.text.architecture=L1_W16_A2", "data.batch_size=4", "data.workers=0", "trainer.epochs=1",
        "logger=none", f"folder={tmp_path_factory.mktemp('runs') / 'meru'}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    return Path(config.folder)


@pytest.fixture(scope="session")
def person_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen drawn persons with an image each, eight for training, in CUHK-PEDES' layout; to be read only."""
    from meru.data.synthetic.pedestrians.load import draw_pedestrians

    return draw_pedestrians(tmp_path_factory.mktemp("persons") / "persons", identities=13, images_per_identity=1)


@pytest.fixture(scope="session")
def mobilenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of MobileNetV2 under timm's names, as the recipes on it need one."""
    path = tmp_path_factory.mktemp("weights") / "mobilenetv2_100.safetensors"
    save_file(timm.create_model("mobilenetv2_100", num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides for towers of OpenAI's form with random weights; open_clip's own smallest take seconds to save."""
    image = {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    path = tmp_path_factory.mktemp("clip") / "small.json"
    path.write_text(json.dumps({"embed_dim": 64, "vision_cfg": image, "text_cfg": text}))
    open_clip.add_model_config(path)
    return [
        "encoder.image.name=small", "+encoder.image.random_weights=true", "+encoder.text.random_weights=true",
        "encoder.embedding_dimension=64",
    ]  # fmt: skip


def composed(*overrides: str, name: str = "train", resolve: bool = True) -> DictConfig:
    """`composed("experiment=birds_meru", "trainer.epochs=1")`: the configuration as `scripts/train.py` would see it."""
    if resolve:
        return copy.deepcopy(_resolved(overrides, name))
    return composing.compose(overrides, command=name)[0]


@functools.lru_cache(maxsize=64)  # tests of all recipes compose the same ones
def _resolved(overrides: tuple[str, ...], name: str) -> DictConfig:
    config, _ = composing.compose(overrides, command=name)
    OmegaConf.resolve(config)
    if name == "train" and not any(each.startswith("evaluation.figures") for each in overrides):
        config.evaluation.figures = []  # saves two seconds a run
    return config


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """`composed` above."""
    return composed


@pytest.fixture
def make_cub_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_cub_folder(classes=5, train=8, …)`: a folder of the test's own, to be damaged at will."""

    def make(name: str = "CUB_200_2011", **arguments) -> Path:
        return write_cub_folder(tmp_path / name, **arguments)

    return make


def write_cub_folder(
    root: Path, *, classes: int = 3, train: int = 4, test: int = 2, size: int = 48, captions: bool = True
) -> Path:
    """Write `classes` × (`train` + `test`) noisy JPEGs, `size` + 16 pixels wide and `size` high, with all that CUB has.

    A class has one colour, so there is something to learn. Class ids are 2, 5, 8, … and image ids 3, 10, 17, …:
    neither starts at 1 nor is without gaps. The last part is visible nowhere.
    """
    generator = np.random.default_rng(0)
    colours = [(name, value) for name, value in COLOURS.items()]
    rows: dict[str, list[str]] = {
        name: []
        for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes", "locations")
    }
    image_id = 3
    for number in range(classes):
        class_id = 3 * number + 2
        colour, value = colours[number % len(colours)]
        folder = f"{class_id:03d}.{colour.title()}_bird_{number}"
        rows["classes"].append(f"{class_id} {folder}")
        (root / "images" / folder).mkdir(parents=True)
        (root / "text_c10" / folder).mkdir(parents=True)
        for position in range(train + test):
            file = f"{colour.title()}_Bird_{position:04d}_{image_id}"
            noise = generator.integers(-40, 40, (size, size + 16, 3))
            picture = np.clip(np.array(value) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(root / "images" / folder / f"{file}.jpg", quality=80)
            sentences = [f"a {colour} bird number {position}", *(f"bird {k} is {colour}" for k in range(9))]
            (root / "text_c10" / folder / f"{file}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
            rows["images"].append(f"{image_id} {folder}/{file}.jpg")
            rows["image_class_labels"].append(f"{image_id} {class_id}")
            rows["train_test_split"].append(f"{image_id} {int(position < train)}")
            rows["bounding_boxes"].append(f"{image_id} 4.0 6.5 30.0 20.0")
            for part_id in range(1, len(PARTS) + 1):
                visible = int(part_id < len(PARTS))
                rows["locations"].append(f"{image_id} {part_id} {10.5 * visible} {2.0 * visible} {visible}")
            image_id += 7
    if not captions:
        shutil.rmtree(root / "text_c10")
    (root / "parts").mkdir()
    (root / "attributes").mkdir()
    rows["parts/part_locs"] = rows.pop("locations")
    rows["parts/parts"] = [f"{number} {name}" for number, name in enumerate(PARTS, start=1)]
    attributes = [f"has_{part}_color::{colour}" for part in ("primary", "wing", "upper_tail") for colour in COLOURS]
    rows["attributes/attributes"] = [f"{number} {name}" for number, name in enumerate(attributes, start=1)]
    rows["attributes/class_attribute_labels_continuous"] = [
        " ".join("90.0" if position % 4 == number % 4 else "10.0" for position in range(len(attributes)))
        for number in range(classes)
    ]
    for name, lines in rows.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def prepare_data_script(monkeypatch):
    """The names of `scripts/prepare_data.py`."""
    monkeypatch.syspath_prepend(PREPARE_DATA.parent)
    return runpy.run_path(str(PREPARE_DATA))


@pytest.fixture
def prepare_data(prepare_data_script, capsys, monkeypatch):
    """`prepare_data("check", …)`: exit code, standard output, standard error; what it sets is set back."""
    logger = logging.getLogger("meru")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    timeout = socket.getdefaulttimeout()

    def call(*words):
        try:
            prepare_data_script["main"]([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    socket.setdefaulttimeout(timeout)
