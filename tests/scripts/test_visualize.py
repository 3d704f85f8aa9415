"""`scripts/visualize.py`: a picture, or one line about what is wrong."""

import subprocess
import sys

import pytest
import torch
from PIL import Image

from meru.errors import UserError
from meru.files import PROJECT
from meru.reports.attention import attention_figure, save_figure
from meru.runs.train import train
from meru.runs.visualize import visualize as visualize_run
from meru.runs.visualize.curves import draw_curves

SCRIPT = PROJECT / "scripts" / "visualize.py"


@pytest.fixture(scope="module")
def picture(cub_folder):
    return next((cub_folder / "images").rglob("*.jpg"))


@pytest.fixture
def finished(compose, cub_folder, tmp_path):
    config = compose(
        "experiment=birds_meru_patches", "encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2",
        f"data.root={cub_folder}", "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.batch_size=4", "data.workers=0",
        "trainer.epochs=1", "logger=none", "evaluation.attention_pictures=1", f"folder={tmp_path / 'run'}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    return tmp_path / "run"


def visualize(*arguments, cwd, python=sys.executable):
    return subprocess.run([python, SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_attention_of_a_sentence_is_drawn(finished, picture, warm_python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (made,) = (finished / "attention").iterdir()  # by the run itself
    assert Image.open(made).size[0] > 300
    sentence = "a red bird, its bill = long"
    done = visualize(
        "attention", f"run={finished}", f"image={picture}", f"text={sentence}", cwd=tmp_path, python=warm_python
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "attention.png").size[0] > 300
    (tmp_path / "page.jpg").write_text("<html>")
    for image, message in (("absent.jpg", "image=absent.jpg: there is no such file"), ("page.jpg", "it is a web page")):
        with pytest.raises(UserError, match=message) as caught:
            visualize_run("attention", {"run": str(finished), "image": image, "text": "x"})
        assert "on_error" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["map"], "choose one of disk, norms, traversal, neighbours, attention, curves, tree"),
        (["attention", "run=x", "image=y"], "text= is missing"),
        (["attention", "size=3"], "'size=3': expected key=value with one of run, image, text, "),
        (["attention", "run=x", "image=y", "text=z", "root=w"], "root=: attention takes run, image, text, output"),
        (["tree", "output=x"], "run= is missing"),
        (["tree", "run=nowhere"], "nowhere is not a run folder"),
        (["attention", "run=x", "image=y", "text=z", "output=/"], "output=/ is a folder: name a file in it"),
        (["attention", "run=x", "image=y", "text=z", "output=a.jpg"], "the file is written as PNG or SVG"),
        (["attention", "run=nowhere", f"image={SCRIPT}", "text=z"], "nowhere is not a run folder"),
        (["attention", "run=nowhere", "image=y", "text=z"], "image=y: there is no such file"),
        (["disk", "run=x", "split=all"], "split=all: give one of test, validation, train"),
        (["disk", "run=x", "count=0"], "count=0: give a whole number from 4 to 100000"),
        (["disk", "run=x", "projection=umap"], "projection=umap: give one of tangent, co_sne"),
        (["traversal", "run=x", "general=all"], "general=all: give one of auto, cone, radius, none"),
        (["traversal", "run=x", "other=y"], "other=y is the end of a walk: name its start, image= or text="),
        (["traversal", "run=x", "image=y", "text=z"], "image=y and text=: a walk has one start"),
        (["traversal", "run=x", "texts=absent.txt"], "absent.txt cannot be read"),
        (["neighbours", "run=x", "image=y"], "image=y: there is no such file"),
        (["norms", "run=nowhere"], "nowhere is not a run folder"),
        (["curves", "run=nowhere"], "run=nowhere: no run folder has this name"),
        (["tree", "run=x", "output=tree.png"], "output=tree.png is named like a file: name a folder"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message, warm_python, tmp_path):
    done = visualize(*arguments, cwd=tmp_path, python=warm_python)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_arguments_the_usage_is_shown(tmp_path):
    done = visualize(cwd=tmp_path)
    assert done.returncode == 2 and "attention run=" in done.stdout


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    figure = attention_figure(torch.zeros(3, 8, 8, dtype=torch.uint8), ["a"], torch.ones(1, 4))
    with pytest.raises(UserError, match="cannot write .*a.png"):
        save_figure(figure, tmp_path / "file" / "a.png")


def write_metrics(folder, lines, *, seed=0):
    folder.mkdir()
    (folder / "config.yaml").write_text(f"name: birds\nseed: {seed}\n")
    (folder / "metrics.jsonl").write_bytes(lines if isinstance(lines, bytes) else "\n".join(lines).encode())
    return folder


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'\xff\xfe{"step": 1', "has no figures"),
        (['{"step": "a", "epoch": "b", "loss": 1}', "[1, 2]", "5", '{"step": null, "epoch": 1}'], "has no figures"),
        (['{"step": 1, "epoch": 0.5, "loss": NaN}', '{"step": 2, "epoch": 1, "loss": Infinity}'], "no finite loss"),
    ],
)
def test_curves_of_damaged_metrics_are_one_line(tmp_path, lines, message):
    write_metrics(tmp_path / "run", lines)
    with pytest.raises(UserError, match=message):
        visualize_run("curves", {"run": str(tmp_path / "run"), "output": str(tmp_path / "curves.png")})
    assert not (tmp_path / "curves.png").exists()


def test_curves_need_the_name_of_a_run(tmp_path):
    with pytest.raises(UserError, match="give the folders of runs"):
        visualize_run("curves", {"run": ", ,", "output": str(tmp_path / "curves.png")})


def test_curves_of_a_seed_that_has_only_begun_meet_those_of_the_others(tmp_path):
    def lines(steps):  # 42 steps an epoch, a number that no float divides
        return [f'{{"step": {step}, "epoch": {step / 42}, "loss": {1 / step}}}' for step in range(10, steps, 10)]

    runs = [write_metrics(tmp_path / f"{steps}", lines(steps), seed=steps) for steps in (1000, 70, 31)]
    (axis, *_) = draw_curves(runs).axes
    assert len(axis.lines) == 1 and len(axis.lines[0].get_xdata()) == 3


def test_runs_without_a_common_epoch_are_a_line_each(tmp_path):
    runs = [
        write_metrics(tmp_path / f"{step}", [f'{{"step": {step}, "epoch": {step}, "loss": 1}}'], seed=step)
        for step in (1, 2)
    ]
    assert len(draw_curves(runs).axes[0].lines) == 2
