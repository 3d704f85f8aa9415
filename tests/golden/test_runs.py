"""Run folders that an earlier version made load, evaluate and resume as pinned in runs.json.

An archive in runs/ is the folder of one epoch of scripts/train.py with tiny towers. Its configuration has DATA_ROOT
where the folder of the data was; the data are synthesised again. In the embeddings of words that training never saw
are zeros, so that the archive is small. The figures are those of the scripts, run as a user runs them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from conftest import composed
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load_file
from warm_python import warm_environment

import meru
from meru.configuration.saved import leaves, read_config
from meru.runs.comparison import is_compared
from meru.training.checkpoint import save_checkpoint, save_weights

# Python 3.11.3 and older have no filters, and those after 3.12 warn of an archive that is read without one.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
PINS, RUNS = Path(__file__).with_name("runs.json"), Path(__file__).with_name("runs")
SCRIPTS = Path(__file__).parents[2] / "scripts"
DATA = "DATA_ROOT"
EMBEDDING = "textual.token_embed.weight"
FILES = ("asked.yaml", "config.yaml", "metrics.jsonl", "last.pt", "best.safetensors", "model.safetensors", "test.json")

SMALL = [
    "encoder.image.name=test_vit", "encoder.image.image_size=32", "encoder.embedding_dimension=8",
    "+encoder.image.arguments={embed_dim: 16, depth: 1, num_heads: 2, patch_size: 8}",
    "data.workers=0", "data.batch_size=8", "logger=none", "trainer.epochs=1", "trainer.log_every=1",
]  # fmt: skip
TEXT = ["encoder.text.architecture=L1_W8_A2"]
BIRDS = ["data=birds", "data.root=birds"]
BIRDS_READ = [*BIRDS, "+data.load.images_per_species=3", "+data.load.image_size=32", *TEXT]
COMMANDS = {
    "image_text": ["model=meru", *BIRDS_READ, *SMALL],
    "patches": [
        "model=meru_patches", *BIRDS_READ, *SMALL, "trainer.ema_decay=0.9", "evaluation.attention_pictures=0",
        "loss.part_entailment.weight=0.1",
    ],
    "gahr": [
        "model=gahr", "data=pedestrians", "data.root=pedestrians", "+data.load.identities=20",
        "+data.load.images_per_identity=2", *TEXT, *SMALL, "evaluation.attention_pictures=0",
    ],
    "discovery": [
        "model=hypgcd", "optim=sgd", *BIRDS, "+data.load_discovery.images_per_species=3",
        "+data.load_discovery.image_size=32", *SMALL, "model.projection_width=16", "model.projection_dimension=8",
        "loss.hierarchy.neighbours=4", "optim.learning_rate=1e-2",
    ],
}  # fmt: skip


def command(python: Path, script: str, *words: str, cwd: Path) -> None:
    """Run one of the scripts on the CPU."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    line = [python, SCRIPTS / script, *words]
    result = subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr


def unpack(name: str, folder: Path, data: Path) -> Path:
    """The run folder of that name, its data in `data`."""
    with tarfile.open(RUNS / f"{name}.tar.xz") as archive:
        archive.extractall(folder, **SAFELY)
    for path in (folder / name).glob("*.yaml"):
        path.write_text(path.read_text(encoding="utf-8").replace(DATA, str(data)), encoding="utf-8")
    return folder / name


def synthesise(folder: Path) -> None:
    """The data of every run, in `folder`."""
    for name in ("image_text", "gahr"):
        words = [word for word in COMMANDS[name] if not word.startswith("data.root=")]
        kind = composed(*words, resolve=False).data.load._target_.rpartition("load_")[2]
        instantiate(composed(*words, f"data.root={folder / kind}").data.load)


# ------------------------------------------------------------------------------------------- what is measured
def outputs(run: Path) -> dict[str, list[float]]:
    """What the loaded model makes of two fixed images and captions."""
    model, tokenizer, _ = meru.load(run)
    ramp = torch.arange(32) / 32
    colours = torch.stack([ramp, 1 - ramp, ramp**2])  # (3, 32)
    images = torch.stack([colours[:, None, :].expand(3, 32, 32), colours[:, :, None].expand(3, 32, 32)])
    with torch.no_grad():
        if tokenizer is None:
            results = {"features": model.features(images), "predict": model.predict(images)}
        else:
            tokens = tokenizer.batch(["a red bird", "a person in a blue coat, seen from behind"])
            image, text = model.embed_image(images), model.embed_text(tokens)
            results = {"image": image, "text": text, "similarity": model.similarity(image, text)}
    return {name: [float(f"{value:.7g}") for value in result.flatten().tolist()] for name, result in results.items()}


def evaluated(run: Path, python: Path) -> dict[str, float | None]:
    """The figures that scripts/evaluate.py finds."""
    path = run / "evaluated.json"
    command(python, "evaluate.py", f"run={run}", "workers=0", f"output={path}", cwd=run)
    return json.loads(path.read_text(encoding="utf-8"))


def resumed(run: Path, python: Path) -> dict[str, dict[str, float | None]]:
    """The losses of the last step of a second epoch, and the figures then."""
    command(python, "train.py", f"resume={run}", "trainer.epochs=2", cwd=run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "loss" in line][-1]
    losses = {name: value for name, value in last.items() if name in ("step", "loss") or name.startswith("loss/")}
    return {"losses": losses, "figures": json.loads((run / "test.json").read_text(encoding="utf-8"))}


# ------------------------------------------------------------------------------------------------------ tests
@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Where the runs find, or make, their data."""
    folder = tmp_path_factory.mktemp("golden")
    synthesise(folder)
    return folder


@pytest.fixture(params=COMMANDS)
def name(request) -> str:
    return request.param


@pytest.fixture
def run(name, tmp_path, data) -> Path:
    return unpack(name, tmp_path, data)


@pytest.fixture
def pinned(name):
    return json.loads(PINS.read_text(encoding="utf-8"))[name]


def agree(values: dict, expected: dict, *, rel: float = 1e-4, abs: float = 1e-6) -> None:
    assert values.keys() >= expected.keys()  # later versions add figures
    for key, value in expected.items():
        assert values[key] == (value if value is None else pytest.approx(value, rel=rel, abs=abs)), key


def test_the_model_loads_and_gives_the_same_outputs(run, pinned):
    agree(outputs(run), pinned["outputs"])


def test_it_evaluates_to_the_same_figures(run, pinned, warm_python):
    agree(evaluated(run, warm_python), pinned["evaluated"])


def test_it_goes_on_to_the_same_losses_and_figures(run, pinned, warm_python):
    found = resumed(run, warm_python)
    # An epoch amplifies the rounding of other CPUs, most of all GAHR's; patch_agreement is near 0.
    agree(found["losses"], pinned["resumed"]["losses"], rel=5e-3, abs=1e-3)
    agree(found["figures"], pinned["resumed"]["figures"])


def test_its_configuration_is_that_of_the_same_command_now(name, run, data):
    """So that an ablation begun by the earlier version goes on, and a comparison puts both into one row."""
    words = [
        f"data.root={data / word.partition('=')[2]}" if word.startswith("data.root=") else word
        for word in COMMANDS[name]
    ]
    now, before = (
        dict(leaves(OmegaConf.to_container(each, resolve=True))) for each in (composed(*words), read_config(run))
    )
    differ = {key for key in now.keys() | before.keys() if now.get(key, "missing") != before.get(key, "missing")}
    compared = {key for key in differ if is_compared(key)}
    assert compared <= {"discovery.asked_num_classes", "discovery.num_classes"}


def test_no_archive_is_large():
    assert {path.name for path in RUNS.iterdir()} == {f"{name}.tar.xz" for name in COMMANDS}
    assert all(path.stat().st_size < 300_000 for path in RUNS.iterdir())


# -------------------------------------------------------------------------------------------------- rewriting
def rewrite() -> None:
    """Make the runs anew, by the present version, and pin what they give."""
    RUNS.mkdir(exist_ok=True)
    pins = {}
    with TemporaryDirectory() as folder, warm_environment() as prefix:
        python, data = prefix / "bin" / "python", Path(folder)
        for name, words in COMMANDS.items():
            command(python, "train.py", *words, f"folder={name}", cwd=data)
            clear_unseen_words(data / name)
            # So that these are the figures of the weights without the words.
            command(python, "evaluate.py", f"run={name}", "workers=0", f"output={name}/test.json", cwd=data)
            for path in (data / name).glob("*.yaml"):
                path.write_text(path.read_text(encoding="utf-8").replace(str(data), DATA), encoding="utf-8")
            with tarfile.open(RUNS / f"{name}.tar.xz", "w:xz", preset=9) as archive:
                for path in sorted((data / name).iterdir()):
                    if path.name in FILES:
                        archive.add(path, f"{name}/{path.name}", filter=anonymous)
            run = unpack(name, data / "unpacked", data)
            pins[name] = {"outputs": outputs(run), "evaluated": evaluated(run, python), "resumed": resumed(run, python)}
    PINS.write_text(json.dumps(pins, indent=1) + "\n", encoding="utf-8")


def clear_unseen_words(run: Path) -> None:
    """Put zeros into the embeddings of words that got no gradient, in all files of weights."""
    state = torch.load(run / "last.pt", weights_only=True)
    if EMBEDDING not in state["model"]:
        return
    shape = state["model"][EMBEDDING].shape
    moments = (each["exp_avg_sq"] for each in state["optimizer"]["state"].values())
    (moment,) = (each for each in moments if each.shape == shape)
    unseen = (moment == 0).all(dim=1)
    for weights in (state["model"], state["average"] or {}):
        for key in weights:
            if key.endswith(EMBEDDING):
                weights[key][unseen] = 0
    save_checkpoint(run / "last.pt", {key: value for key, value in state.items() if key != "format"})
    for path in run.glob("*.safetensors"):
        weights = load_file(path)
        weights[EMBEDDING][unseen] = 0
        save_weights(path, weights)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the user, the time and the rights of this machine."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o644
    return entry
