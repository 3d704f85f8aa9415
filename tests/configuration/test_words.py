"""Words `key=value`: read as people type them, printed so that they can be pasted, refused in one line."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from stub_checkout import BASH

from meru.configuration import check, composing
from meru.configuration.overrides import override, pasteable, read_override, readable, typed_keys
from meru.errors import UserError
from meru.files import PROJECT

STRANGE = [
    "runs/x", "/data/鸟类", "鸟 类", "lr=1e-4", "copy (1)", "/a,b", "a, b", "[a]", "{a: b}", "2024", "1e-4", "true",
    "null", "~/runs", "a:b", "C:\\new\\", "O'Brien", 'say "hi"', "it's \"so\"", "a#b", "100%", "a&b;c", "$HOME", "`id`",
    "*?", "a|b", "choice(a,b)", "glob(*)", "-x", " padded ", "a\\,b", "é", "!important",
]  # fmt: skip


def read(word, command="train", *others):
    (first, *_) = readable([word, *others], command=command)
    return read_override(first)


@pytest.mark.parametrize("text", [text for text in STRANGE if text not in ("null", " padded ", "a\\,b")])
@pytest.mark.parametrize("key", ["folder", "name", "data.root", "encoder.image.weights"])
def test_a_path_or_text_is_taken_as_it_was_typed(key, text):
    assert read(f"{key}={text}") == (key, text)


@pytest.mark.parametrize("text", STRANGE)
def test_what_is_printed_can_be_pasted_into_a_shell(text):
    words = subprocess.run(
        [BASH, "-c", f"printf '%s\\0' {pasteable('resume', text)} {pasteable('data.root', Path(text))}"],
        capture_output=True, check=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    assert [read_override(word) for word in readable(words[:2], command="train")] == [
        ("resume", text),
        ("data.root", str(Path(text))),
    ]


def test_plain_paths_are_printed_plainly():
    assert (
        pasteable("resume", Path("runs/birds_meru/2026-01-01_10-00-00")) == "resume=runs/birds_meru/2026-01-01_10-00-00"
    )
    assert pasteable("folder", "/a,b") == """'folder="/a,b"'"""


@pytest.mark.parametrize("text", ["/a,b", "鸟", "lr=1e-4", "'a'", "[x]", "7"])
def test_an_override_for_hydra_keeps_its_value_with_multirun_too(text):
    assert read(override("folder", text), "train", "-m") == ("folder", text)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("folder=null", None),
        ("folder='a,b'", "a,b"),
        ('folder="a,b"', "a,b"),
        ("data.root=${output}/x", "${output}/x"),
        ("encoder.image.pretrained=true", True),
        ("trainer.epochs=3", 3),
        ("data.crop_scale=[0.5,1]", [0.5, 1]),
        ("+optim.multipliers.local=5", 5),
        ("+encoder.image.arguments={embed_dim: 64}", {"embed_dim": 64}),
        ("trainer.epochs=３", "３"),  # which no kind takes: the check says what is allowed
    ],
)
def test_what_hydra_reads_well_is_left_to_it(word, value):
    assert read(word)[1] == value


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=own_meru", "data.path=x", "encoder.image.lora_rank=4", "encoder.text.lora_rank=4"],
        ["experiment=own_meru", "data.path=x", "encoder.image.weights=y", "encoder.image.train_last_blocks=2"],
        ["experiment=own_gahr", "data.path=x", "encoder.image.lora_rank=2", "encoder.image.lora_norms=true"],
        ["logger=none", "logger.also=[tensorboard]", "optim.multipliers.local=5", "optim.optimizer.amsgrad=true"],
    ],
)
def test_keys_that_a_tower_or_logger_takes_need_no_plus(words):
    overrides = readable(words, command="train")
    config, _ = composing.compose(overrides)
    check(config, command="train", typed=typed_keys(overrides))
    for word in words[2:]:
        key, _, value = word.partition("=")
        assert OmegaConf.select(config, key) == yaml.safe_load(value)


@pytest.mark.parametrize(
    "word", ["-m", "--cfg", "~logger", "hydra.verbose=true", "data=birds", "hydra/launcher=x"]
)
def test_other_words_are_left_alone(word):
    assert readable([word], command="train") == [word]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?"),
        (["lr=3"], "lr: no such key"),
        (
            ["seed=1,2"],
            "seed=1,2: give a whole number from 0 to 4294967295; several values, one per run, need --multirun",
        ),
        (["logger.tags=a,b"], """logger.tags=a,b: give a list like ["one","2"]"""),
        (["data.crop_scale=[0.5,1"], "data.crop_scale=[0.5,1: give a list like [0.5,1.0]"),
        (["evaluation.templates=[a photo of a {}]"], """'evaluation.templates=["a photo of a {}."]'"""),
        (["folder=鸟,虎", "-m"], """quote each: 'folder="a,b"'"""),
        (["optim=null"], "optim=null: give the name of a file in configs/optim"),
        (["experiment=_discovery_small"], "such as birds_hypcd, birds_hypgcd"),
        (["experiment=birds_clip,_small", "-m"], "experiment=_small: files with _ are only bases of other files"),
        (["data=_persons"], "choose a file that builds on it, such as cuhk_pedes"),
        (["+optim.multipliers.local.predictor=1"], "braces: '+optim.multipliers={local.predictor: 1}'"),
        (["folder='a"], """for the shell: 'folder="a,b"'"""),
    ],
)
def test_what_may_mean_two_things_is_one_line_that_says_how_to_write_it(words, message):
    with pytest.raises(UserError) as caught:
        readable(words, command="train")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_with_multirun_commas_separate():
    words = readable(["name=1,b", "seed=1,2", "trainer.epochs=range(1,4)", "-m"], command="train")
    assert words == ['name="1","b"', "seed=1,2", "trainer.epochs=range(1,4)", "-m"]


# ------------------------------------------------------------------------------------------------------- scripts


def run(python, script, *words, cwd=None):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [python, PROJECT / "scripts" / script, *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        timeout=120,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("train.py", ["trainer.epochs=abc"], "trainer.epochs=abc: give a whole number from 1 to 100000 (epochs)"),
        ("train.py", ["+loss.nonsense.weight=1"], "loss.nonsense.weight: no such key; loss has contrastive"),
        ("train.py", ["trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("train.py", ["experiment=鸟"], "Could not find 'experiment/鸟'"),
        ("train.py", ["discovery.num_classes=5"], "no such key; it comes with model=hypcd, model=hypgcd, "),
        ("train.py", ["data.load.image_size=32"], "to add it, write +data.load.image_size=<value>"),
        ("train.py", ["seed=1,x", "-m"], "seed=x: give a whole number"),
        ("evaluate.py", ["run=x", "split=tset"], "split=tset: give one of test, validation, train"),
        ("evaluate.py", ["run=x", "+data.caption=y"], "data.caption: no such key; did you mean data.captions?"),
        ("ablate.py", ["experiment=birds_meru", "seeds=1,a"], "seeds=1,a: give whole numbers with commas between them"),
        (
            "ablate.py",
            ["experiment=birds_meru", "data.workers=-1"],
            "data.workers=-1: give a whole number from 0 to 512",
        ),
        ("visualize.py", ["attention", "run=x", "image=y", "text= "], "text=: give a sentence"),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_made(script, words, message, tmp_path, warm_python):
    code, _, errors = run(warm_python, script, *words, cwd=tmp_path)
    assert code == 2 and message in errors
    assert errors.count("\n") == 1 and errors.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("prepare_data.py", ["birds", "--seed", "abc"], "argument --seed: 'abc': give a whole number from 0 to"),
        ("prepare_data.py", ["birds", "--seed", "-1"], "argument --seed: '-1': give a whole number from 0 to"),
        ("prepare_data.py", ["cub", "--root", ""], "argument --root: '': give the path of a folder"),
        ("compare.py", ["x", "--figures", ""], "argument --figures: '': give the name of a file in a run folder"),
    ],
)
def test_options_say_what_is_allowed(script, words, message, tmp_path, warm_python):
    code, _, errors = run(warm_python, script, *words, cwd=tmp_path)
    assert code == 2 and message in errors and "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_run_in_a_folder_with_a_strange_name_is_made_resumed_and_evaluated(cub_folder, tmp_path, warm_python):
    folder = tmp_path / "鸟类, lr=1e-4 (1) [x]"
    data = tmp_path / "数据 1,2"
    data.symlink_to(cub_folder)
    tiny = [
        "experiment=birds_meru", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "logger=none",
        "data.load._target_=meru.data.datasets.cub.load_cub", "data.batch_size=4", "data.workers=0",
    ]  # fmt: skip
    words = [*tiny, f"data.root={data}", f"folder={folder}"]
    code, _, errors = run(warm_python, "train.py", *words, "trainer.epochs=1")
    assert code == 0 and (folder / "test.json").is_file(), errors
    code, _, errors = run(warm_python, "train.py", *words, "trainer.epochs=1")
    go_on = errors.rpartition(" trainer.epochs=<more> ")[2].strip()
    assert code == 2 and shlex.split(go_on) == [override("resume", folder)]
    code, output, errors = run(
        warm_python, "train.py", "experiment=birds_meru", *shlex.split(go_on), "trainer.epochs=2"
    )
    assert code == 0 and "resumed at step" in output, errors
    code, output, errors = run(warm_python, "evaluate.py", f"run={folder}", f"root={data}", "workers=0")
    assert code == 0 and "zero-shot" in output, errors


@pytest.mark.parametrize("word", ["seed", "seed:3", "seed＝1", "runs/x"])
def test_a_word_without_an_equals_sign_is_said_to_be_no_override(word):
    with pytest.raises(UserError, match=f"'{word}' is not an override: write <key>=<value>"):
        readable([word], command="train")


def test_keys_of_the_runs_data_need_no_plus_in_an_evaluation():
    assert readable(["data.timeout=60", "split=test"], command="evaluate") == ["++data.timeout=60", "split=test"]


def test_what_belongs_to_a_flag_of_hydra_is_left_alone():
    assert readable(["--cfg", "job", "-m", "seed=0,1"], command="train") == ["--cfg", "job", "-m", "seed=0,1"]
