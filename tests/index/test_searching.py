"""`scripts/search.py`: a ranking and its images, or one line about what is wrong."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

import meru
from meru.errors import UserError
from meru.files import PROJECT
from meru.runs.search import format_ranking, search
from meru.runs.train import train

SCRIPT = PROJECT / "scripts" / "search.py"
COLOURS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six photographs in a folder with a space, half of them in a folder inside, and what is no photograph."""
    folder = tmp_path_factory.mktemp("my photos")
    for number in range(6):
        path = folder / ("deep" if number % 2 else "") / f"{COLOURS[number % 3]}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30 + number), COLOURS[number % 3]).save(path)
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture(scope="module")
def pretrained(photos, tmp_path_factory, request):
    from conftest import composed

    config = composed(
        "experiment=own_meru", f"data.path={photos}", "data.kind=file_names", "data.test_fraction=0",
        "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "data.batch_size=3", "data.workers=0",
        "trainer.epochs=1", "logger=none", f"folder={tmp_path_factory.mktemp('run') / 'run'}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    return meru.load(config.folder)


def test_images_are_ranked_by_their_similarity(pretrained, photos, tmp_path):
    ranking = search(pretrained, images=photos, text="a red bird", top=4, output=tmp_path / "found.png", workers=0)
    model, tokenizer, transforms = pretrained
    with torch.no_grad():
        query = model.embed_text(tokenizer.batch(["a red bird"]))
        scores = {
            path: model.similarity(query, model.embed_image(pretrained_input(path, transforms))).item()
            for path in photos.rglob("*.png")
        }
    expected = sorted(scores.values(), reverse=True)[:4]
    assert [found.score for found in ranking] == pytest.approx(expected, abs=1e-5)
    assert all(scores[found.path] == pytest.approx(found.score, abs=1e-5) for found in ranking)
    assert Image.open(tmp_path / "found.png").width > 300
    assert "deep/" in format_ranking(search(pretrained, images=photos, text="x", workers=0), photos)


def pretrained_input(path, transforms):
    from meru.data.images import read_image

    return transforms.evaluation(read_image(path))[None]


def test_an_image_that_cannot_be_decoded_is_counted(pretrained, photos, tmp_path, caplog):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    with caplog.at_level("WARNING", logger="meru"):
        assert len(search(pretrained, images=tmp_path, text="a", workers=0)) == 1
    assert "1 of 2 images cannot be decoded" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="none of the 1 images in .* can be decoded"):
        search(pretrained, images=tmp_path, text="a", workers=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=x", "text=a"], "run= is missing: give the folder of a finished run"),
        (["run=x", "text=a"], "images= is missing"),
        (["run=x", "images=x"], "text= is missing"),
        (["run=x", "images=x", "text= "], "text=: give a sentence"),
        (["run=x", "images=x", "text=a", "top=0"], "top=0: give a whole number from 1"),
        (["run=x", "images=x", "text=a", "top=many"], "top=many: give a whole number from 1"),
        (["run=x", "images=x", "text=a"], "images=x: there is no such folder"),
        (["run=x", "images=.", "text=a", "output=found.xyz"], "output=found.xyz: the file is written as PNG"),
        (["run=x", "images=x", "text=a", "size=3"], "'size=3': expected key=value with one of run"),
    ],
)
def test_wrong_words_are_one_line(words, message, warm_python):
    done = subprocess.run([warm_python, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_other_mistakes_are_one_line(pretrained, photos, tmp_path):
    with pytest.raises(UserError, match="images=nowhere: there is no such folder"):
        search(pretrained, images="nowhere", text="a")
    with pytest.raises(UserError, match="holds no images"):
        search(pretrained, images=tmp_path, text="a")
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        search(pretrained, images=photos, text="a", output=str(tmp_path))
    with pytest.raises(UserError, match="has no text tower"):
        search(pretrained._replace(tokenizer=None), images=photos, text="a")


def test_help_needs_no_model():
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "top=10" in done.stdout
