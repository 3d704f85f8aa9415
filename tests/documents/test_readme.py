"""The commands and the Python of both READMEs, run as they stand there, only on less data and smaller towers."""

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from meru.files import PROJECT

READMES = ("README.md", "README.zh-CN.md")
WITHOUT_WANDB = "logger=none"  # saves three seconds a run; the first command has it
ONE_PICTURE = "evaluation.attention_pictures=1"  # saves ten
QUICK = ["trainer.epochs=1", "data.batch_size=8", "data.workers=0", "encoder.text.architecture=L1_W64_A2"]
TINY_TOWERS = [
    "encoder.image.name=ViT-S-32-alt", "+encoder.image.random_weights=true", "+encoder.text.random_weights=true",
    "encoder.embedding_dimension=256", "trainer.epochs=1", "data.batch_size=4", "data.workers=0", WITHOUT_WANDB,
    ONE_PICTURE,
]  # fmt: skip

PERSONS = [
    *QUICK, "data.batch_size=4", "+data.load.identities=13", "+data.load.images_per_identity=1",
    "encoder.image.image_size=32", WITHOUT_WANDB, ONE_PICTURE,
]  # fmt: skip
DISCOVERY = [
    "+data.load_discovery.images_per_species=4", "trainer.epochs=1", "data.batch_size=8", "data.workers=0",
    "model.projection_width=16", WITHOUT_WANDB,
]  # fmt: skip
MODEL_OF_KEY = {
    "patches": "meru_patches", "space": "gahr", "sms": "gahr", "bai": "gahr", "discovery": "hypgcd",
    "model.released": "hypgcd", "loss.self_distillation": "hypgcd", "loss.part_entailment": "meru_patches",
}  # fmt: skip


def blocks(readme, language):
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / readme).read_text(encoding="utf-8"), re.DOTALL)


def commands(readme):
    """Commands of the bash blocks, comments taken off."""
    lines = "\n".join(blocks(readme, "bash")).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line.split(" #")[0]).strip() for line in lines if line and not line.startswith("#")]


def execute(command, *more, cwd, python=sys.executable):
    """Run a line of the README from another directory, by that Python of a virtual environment."""
    words = [*shlex.split(command), *more]
    words[0] = str(python) if words[0] == "python" else words[0]
    words[1] = str(PROJECT / words[1])
    environment = {
        **os.environ, "VIRTUAL_ENV": str(Path(python).parent.parent), "OMP_NUM_THREADS": "1", "NGPU": "0",
    }  # fmt: skip
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def birds_run(tmp_path_factory):
    """The first command of the README, on three pictures a species; returns the run folder and the pictures."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "birds"
    more = [*QUICK, "+data.load.images_per_species=4", f"data.root={data}", f"folder={folder / 'run'}"]
    output = execute("bash train_cub.sh meru data=birds", *more, cwd=folder)
    assert "test split" in output and str(folder / "run") in output
    return folder / "run", data


def test_both_languages_give_the_same_commands_and_code():
    first, second = (
        (commands(name), [re.sub(r"#.*", "", block) for block in blocks(name, "python")]) for name in READMES
    )
    assert first == second


def test_both_languages_give_the_same_figures():
    """Every row of figures of every table stands in both; words differ."""
    first, second = (
        [re.findall(r"[\d.]+", line) for line in (PROJECT / name).read_text("utf-8").splitlines() if line[:1] == "|"]
        for name in READMES
    )
    assert first == second
    assert sum("±" in line for line in (PROJECT / READMES[0]).read_text("utf-8").splitlines()) > 4


@pytest.mark.parametrize("command", sorted(set(commands(READMES[0]))))
def test_command(command, birds_run, cub_folder, mobilenet_weights, warm_python, tmp_path):
    run, data = birds_run
    type_in = partial(execute, python=warm_python, cwd=tmp_path)
    in_a_run = command.replace("<run folder>", str(run))
    if command == "bash train_cub.sh meru data=birds":
        assert (run / "test.json").exists()
    elif " data=birds" in command:
        few = [*QUICK, WITHOUT_WANDB, ONE_PICTURE, "+data.load.images_per_species=4", f"data.root={data}"]
        few.append(f"output={tmp_path}")
        seeds = "0,1" if command == "bash train_cub.sh meru data=birds seed=0,1,2 -m" else "0"
        type_in(re.sub(r"seed=[\d,]+", f"seed={seeds}", command), *few)
        assert len(list(tmp_path.glob("birds_*/*/test.json"))) == len(seeds.split(","))
    elif command == "python scripts/train.py experiment=pedestrians_gahr":
        type_in(command, *PERSONS, f"data.root={tmp_path / 'persons'}", f"folder={tmp_path / 'run'}")
        assert (tmp_path / "run" / "test.json").exists()
    elif command.startswith("python scripts/train.py experiment=birds_"):
        type_in(command, *DISCOVERY, f"data.root={data}", f"folder={tmp_path / 'run'}")
        assert (tmp_path / "run" / "test.json").exists()
    elif command.startswith("python scripts/ablate.py experiment=pedestrians_gahr"):
        few = command.replace("seeds=0,1,2", "seeds=0") + " " + " ".join(PERSONS)
        type_in(few, f"data.root={tmp_path / 'persons'}", f"output={tmp_path / 'table'}")
        assert "full" in (tmp_path / "table" / "ablation.md").read_text(encoding="utf-8")
    elif command.startswith("python scripts/ablate.py experiment=birds_hypgcd"):
        few = command.replace("seeds=0,1,2", "seeds=0").replace("jobs=2", "jobs=1") + " " + " ".join(DISCOVERY)
        type_in(few, f"data.root={data}", f"output={tmp_path / 'table'}")
        assert "HypGCD" in (tmp_path / "table" / "ablation.md").read_text(encoding="utf-8")
    elif command == "bash scripts/test.sh":
        assert "pytest" in type_in(command, "--version")
    elif command in ("bash train_cub.sh meru", "bash train_cub.sh clip", "bash train_patches_cub.sh"):
        type_in(command, *TINY_TOWERS, f"data.root={cub_folder}", f"folder={tmp_path / 'run'}")
        assert (tmp_path / "run" / "test.json").exists()
    elif "experiment=cub_mobilenetv2" in command:
        # The file, the data and the seed are the reader's; everything else is the command's own.
        mine = ("encoder.image.weights=", "data.root=", "seed=")
        kept = " ".join(word for word in command.split() if not word.startswith(mine))
        small = [*QUICK, WITHOUT_WANDB, "data.batch_size=4", "encoder.image.image_size=64", f"data.root={cub_folder}"]
        weights = f"encoder.image.weights={mobilenet_weights}"
        if "gcd" in command:
            small += ["data.old_classes=[002.Red_bird_0,005.Green_bird_1]", "model.projection_width=16"]
        else:
            small.append(ONE_PICTURE)
        type_in(kept, weights, *small, f"folder={tmp_path / 'run'}")
    elif "suite=robustness" in command:
        assert "occlusion" in type_in(in_a_run, "workers=0", f"output={tmp_path / 'robustness.json'}")
        assert (tmp_path / "robustness.png").exists()
    elif command.startswith("python scripts/evaluate.py"):
        assert "zero-shot" in type_in(in_a_run, "workers=0")
    elif command.startswith("python scripts/visualize.py attention"):
        picture = next((data / "images").rglob("*.jpg"))
        type_in(in_a_run.replace("<file>", str(picture)))
        assert (tmp_path / "attention.png").exists()
    elif command == "python scripts/benchmark.py step":
        small = ["encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W64_A2"]
        assert "tokens" in type_in(command, "--batch", "2", "--repeats", "1", *small)
    elif command.startswith("python scripts/benchmark.py step --task discovery"):
        quick = command.replace("dino_vitb16", "small").replace("--batch 128", "--batch 4")
        quick = quick.replace("encoder.image.pretrained=false", "")  # a key that the small encoder does not have
        assert "simgcd + LHL" in type_in(quick)
    elif command.startswith("python scripts/compare.py"):
        assert "± 0.0" in type_in("python scripts/compare.py", str(run), str(run))
    elif command.startswith("python scripts/benchmark.py geometry"):
        assert "|" in type_in(command, "--batch", "64", "--dimension", "8")
    elif command.startswith("python scripts/benchmark.py retrieval"):
        assert "cosine" in type_in(command, "--size", "50", "--dimension", "8", "--identities", "5")
    elif command == "bash scripts/gpu_check.sh gpu_check":  # tests/scripts/test_gpu_check.py runs it
        assert "--smoke" in type_in(command, "--help")
    elif command.startswith("python scripts/prepare_data.py cub"):
        type_in("python scripts/prepare_data.py cub", "--root", str(cub_folder))
    else:
        pytest.fail(f"no test runs {command!r}")


def test_python(birds_run, capsys):
    run, data = birds_run
    picture = next((data / "images").rglob("*.jpg"))
    for block in blocks(READMES[0], "python"):
        exec(block.replace("<run folder>", str(run)).replace("bird.jpg", str(picture)), {})
    assert "tensor" in capsys.readouterr().out


def test_python_finds_the_package_beside_a_clone_of_its_name(tmp_path):
    (tmp_path / "meru").mkdir()
    command = [sys.executable, "-c", "import meru; print(meru.load)"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "function load" in found.stdout, found.stderr


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    text = (PROJECT / readme).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (PROJECT / Path(target)).exists(), target


def test_every_key_in_the_tables_exists(compose):
    texts = [(PROJECT / name).read_text(encoding="utf-8") for name in READMES]
    for key, value in {pair for text in texts for pair in re.findall(r"`([a-z_.]+)=([^`<>]+?)`", text)}:
        if (PROJECT / "configs" / key).is_dir():
            compose(f"{key}={value}")
        elif key not in ("run", "split", "suite", "resume"):
            encoder = "clip_vit_b16" if key.startswith("encoder.image.t") else "small"
            model = next((name for start, name in MODEL_OF_KEY.items() if key.startswith(start)), "meru")
            compose(f"model={model}", f"encoder={encoder}", f"{key}=0")
