"""`scripts/train.py` and `scripts/evaluate.py` as a user meets them: killed, resumed, mistyped."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from omegaconf import OmegaConf

import meru
from meru.data.images import read_image
from meru.files import PROJECT

TINY = [
    "encoder.image.name=vit_tiny_patch16_224",
    "encoder.image.image_size=32",
    "+encoder.image.arguments={embed_dim: 64, depth: 1, num_heads: 4}",
    "encoder.text.architecture=L1_W16_A2",
    "data.load._target_=meru.data.datasets.cub.load_cub",
    "data.batch_size=4",
    "logger=none",
]


def start(*arguments, script="train", python=sys.executable, **environment):
    return subprocess.Popen(
        [python, PROJECT / "scripts" / f"{script}.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
    )


def run(*arguments, **keywords):
    process = start(*arguments, **keywords)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def finished(cub_folder, tmp_path_factory, warm_python):
    """A finished run, and the overrides that made it."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    overrides = [
        "experiment=birds_meru", *TINY, f"data.root={cub_folder}", "trainer.epochs=6", "trainer.log_every=1",
        "trainer.checkpoint_every=1", "data.workers=1",
    ]  # fmt: skip
    code, output, errors = run(*overrides, f"folder={folder}", python=warm_python)
    assert code == 0, errors
    return folder, overrides, output


def test_a_run_prints_its_table_with_chance_levels_and_where_everything_lies(finished):
    folder, _, output = finished
    assert "test split, the best of text_to_image/class/recall@1 on validation" in output
    assert "(33.3)" in output  # chance of zero-shot top-1 among three classes
    assert str(folder) in output
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "asked.yaml", "config.yaml", "metrics.jsonl", "last.pt", "best.safetensors", "model.safetensors", "test.json",
        "duration.json", "environment.json", "figures",
    }  # fmt: skip


def test_killed_by_sigkill_and_resumed_ends_with_the_same_bits(finished, tmp_path, warm_python):
    straight, overrides, _ = finished
    folder = tmp_path / "killed"
    process = start(*overrides, f"folder={folder}", python=warm_python)  # which is killed with the one that asks for it
    deadline = time.monotonic() + 200
    while len((folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "model.safetensors").exists()
    code, output, errors = run("experiment=cub_meru", f"resume={folder}", python=warm_python)  # as train_cub.sh does
    assert code == 0, errors
    assert "resumed at step" in output
    assert metrics(folder) == metrics(straight)
    assert (folder / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert json.loads((folder / "test.json").read_text()) == json.loads((straight / "test.json").read_text())


def test_sigterm_saves_and_says_how_to_go_on(finished, tmp_path):
    _, overrides, _ = finished
    folder = tmp_path / "stopped"
    process = start(*overrides, "trainer.epochs=2000", f"folder={folder}")
    while not (folder / "last.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"to go on: resume={folder}" in output
    assert "Traceback" not in errors
    step = torch.load(folder / "last.pt", weights_only=True)["step"]
    assert metrics(folder)[-1]["step"] == step


def test_the_finished_model_is_loaded_with_tokenizer_and_transform(finished, cub_folder):
    folder, _, _ = finished
    model, tokenizer, transforms = meru.load(folder)
    path = next((cub_folder / "images").rglob("*.jpg"))
    with torch.no_grad():
        image = model.embed_image(transforms.evaluation(read_image(path))[None])
        text = model.embed_text(tokenizer.batch(["a red bird", "a bird"]))
        assert model.similarity(text, image).shape == (2, 1)
    assert not model.training
    assert transforms.evaluation(read_image(path)).shape == (3, 32, 32)


def test_evaluating_again_gives_the_same_figures(finished, tmp_path, warm_python):
    folder, _, _ = finished
    words = [f"run={folder}", "workers=0", f"output={tmp_path / 'again.json'}"]
    code, output, errors = run(*words, script="evaluate", python=warm_python)
    assert code == 0, errors
    again, before = (json.loads(path.read_text()) for path in (tmp_path / "again.json", folder / "test.json"))
    assert again == pytest.approx(before)
    assert "zero-shot" in output


def test_a_published_checkpoint_starts_a_run(finished, tmp_path, warm_python):
    """What MERU's authors publish: a `.pth` with the weights under `model`, other things beside them."""
    folder, overrides, _ = finished
    weights = torch.load(folder / "last.pt", weights_only=True)["model"]
    torch.save({"model": weights, "iteration": 120_000}, tmp_path / "meru_vit_s.pth")
    still = ["trainer.epochs=1", "optim.learning_rate=0", f"folder={tmp_path / 'run'}"]
    code, _, errors = run(*overrides, *still, f"encoder.init={tmp_path / 'meru_vit_s.pth'}", python=warm_python)
    assert code == 0, errors
    started = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(started[name], weights[name]) for name in weights)


def damaged(cub_folder, make_cub_folder, damage):
    folder = make_cub_folder()
    damage(folder)
    return folder


def break_image(folder):
    next((folder / "images").rglob("*.jpg")).write_bytes(b"not a picture")


def empty_caption(folder):
    next((folder / "text_c10").rglob("*.txt")).write_text("")


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        (["no.such.key=1"], "no.such.key: no such key; the configuration has name, seed", 2),
        (["trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?", 2),
        (["model=merry"], "Could not find 'model/merry': did you mean meru", 2),
        (["experiment=cub_clop"], "Could not find 'experiment/cub_clop': did you mean cub_clip", 2),
        (["data=cub", "data.root=/nowhere/CUB"], "no CUB data: /nowhere/CUB is no folder; download", 2),
        (["data.batch_size=100"], "a batch of 100 images is larger than the training set", 2),
        (["trainer.precision=fp8"], "trainer.precision=fp8: give one of auto, bf16, fp32", 2),
        (["trainer.monitor=accuracy"], "trainer.monitor=accuracy: give a figure of the validation split", 2),
        (["+trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?", 2),
        (["resume=/nowhere"], "/nowhere is not a run folder", 2),
        (["encoder.init=/nowhere/meru.pth"], "encoder.init: no file /nowhere/meru.pth", 2),
        (["encoder.text.architecture=huge"], "architecture=huge: give layers, width and heads as L12_W512_A8", 2),
        ([break_image], "does not decode", 1),
        ([empty_caption], "caption", 2),
    ],
)
def test_a_mistake_is_one_clear_line(arguments, message, exit_code, cub_folder, make_cub_folder, tmp_path, warm_python):
    overrides = [f"data.root={cub_folder}", "data.workers=1", f"output={tmp_path}"]
    for argument in arguments:
        damage = callable(argument)
        overrides.append(f"data.root={damaged(cub_folder, make_cub_folder, argument)}" if damage else argument)
    code, _, errors = run("experiment=birds_meru", *TINY, "trainer.epochs=1", *overrides, python=warm_python)
    lines = [line for line in errors.splitlines() if "|" not in line]  # not the progress bar
    assert "Traceback" not in errors
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert code == exit_code


def test_unreadable_images_can_be_skipped(make_cub_folder, tmp_path, warm_python):
    folder = make_cub_folder()
    for path in (folder / "images").rglob("*_000[01]_*.jpg"):  # half of the training images, one may be validated
        path.write_bytes(b"not a picture")
    arguments = ["experiment=birds_meru", *TINY, "trainer.epochs=2", "trainer.log_every=1", f"data.root={folder}"]
    code, _, errors = run(*arguments, "data.on_error=skip", f"folder={tmp_path / 'run'}", python=warm_python)
    assert code == 0, errors
    assert sum(line.get("skipped_images", 0) for line in metrics(tmp_path / "run")) > 0


def test_an_agent_of_a_sweep_starts_a_run_with_its_parameters(cub_folder, tmp_path, warm_python):
    parameters = ["--optim.learning_rate=1e-05", "--trainer.epochs=1", "--data.crop_scale=[0.6, 1.0]", "--seed=7"]
    fixed = ["experiment=birds_meru", *TINY, f"data.root={cub_folder}", f"folder={tmp_path / 'run'}"]
    code, _, errors = run(*fixed, *parameters, python=warm_python)
    assert code == 0, errors
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (config.optim.learning_rate, config.trainer.epochs, config.seed) == (1e-05, 1, 7)
    assert config.data.crop_scale == [0.6, 1.0]


def test_a_run_folder_in_use_is_not_overwritten(finished, warm_python):
    folder, overrides, _ = finished
    code, _, errors = run(*overrides, f"folder={folder}", python=warm_python)
    assert code == 2 and f"folder={folder} holds the finished run of this command; its figures are in" in errors


def test_a_run_of_one_model_is_not_resumed_as_another(finished, warm_python):
    folder, _, _ = finished
    code, _, errors = run("experiment=birds_clip", f"resume={folder}", python=warm_python)
    assert code == 2 and "is a run of MERU" in errors


def test_help_is_quick_and_all_keys_are_shown():
    began = time.monotonic()
    code, output, _ = run("--cfg", "job")
    assert code == 0 and "embedding_dimension" in output
    assert "torch" not in subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['train', '--cfg', 'job']\n"
         f"import runpy; sys.path[:0] = ['{PROJECT}', '{PROJECT}/scripts']\n"
         f"runpy.run_path('{PROJECT}/scripts/train.py')\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert time.monotonic() - began < 30
