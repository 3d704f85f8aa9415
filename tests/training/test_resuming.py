"""What the command line of a resumed run may change, and what stands in the run folder afterwards."""

import shutil

import pytest
import torch
from omegaconf import OmegaConf

from meru.configuration.saved import choices_of, read_config, save_config
from meru.errors import UserError
from meru.runs.folder import release, require_data, resumed_config
from meru.runs.train import train

SMALL = [
    "experiment=cub_meru", "encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
    "logger=none", "data.batch_size=4", "data.workers=0", "trainer.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resumed") / "run"


@pytest.fixture
def run(folder, compose, cub_folder):
    """A run folder of one epoch, begun as scripts/train.py would."""
    if not folder.exists():
        train(compose(*SMALL, f"data.root={cub_folder}", f"folder={folder}", resolve=False), device=torch.device("cpu"))
    yield folder
    release(folder)


@pytest.fixture
def resumed(run, compose):
    def resume(*overrides):
        words = ["experiment=cub_meru", f"resume={run}", *overrides]
        return resumed_config(compose(*words, resolve=False), words)

    return resume


def test_the_run_goes_on_with_its_own_configuration(resumed):
    config = resumed()
    assert config.trainer.epochs == 1 and config.encoder.image.name == "test_resnet"
    assert config.data.load.root == config.data.root


def test_a_key_acts_wherever_it_was_interpolated(resumed, tmp_path):
    config = resumed(f"data.root={tmp_path}", "trainer.epochs=3", "loss.entailment.weight=0.5")
    assert config.data.load.root == config.data.load_discovery.root == str(tmp_path)
    assert config.model.loss.entailment.weight == 0.5 and config.trainer.epochs == 3


def test_a_path_is_meant_from_where_the_user_stands_now(resumed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    assert resumed("data.root=elsewhere").data.load.root == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "word", ["seed=5", "data.batch_size=2", "model.curvature=0.5", "model.norm_exponent=0", "folder=/elsewhere"]
)
def test_a_key_that_cannot_change_any_more_is_refused_by_name(resumed, word):
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=f"{word}: this run has {key}=.*; to change it, begin a new run"):
        resumed(word)


def test_the_same_value_again_is_no_change(resumed):
    assert resumed("seed=0", "data.batch_size=4", "model.curvature=1").seed == 0


def test_a_path_that_is_kept_may_be_repeated_as_it_was_typed(resumed, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("HOME", str(run.parent))
    for word in ("folder=run", "folder='~/run'", "folder=${oc.env:HOME}/run"):
        assert resumed(word, "trainer.epochs=3").folder == str(run)
    with pytest.raises(UserError, match="folder=walk: this run has folder="):
        resumed("folder=walk")


def test_a_run_folder_that_was_moved_may_be_named_where_it_is(run, compose, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    words = [f"resume={moved}", f"folder={moved}"]
    assert resumed_config(compose("experiment=cub_meru", *words, resolve=False), words).resume == str(moved)
    release(moved)


def test_an_estimated_number_of_classes_may_be_repeated_as_it_was_asked_for(tmp_path, compose):
    asked = compose("experiment=cub_hypgcd", "encoder=small", "discovery.num_classes=estimate", resolve=False)
    became = asked.copy()
    OmegaConf.update(became, "discovery", {"num_classes": 7, "asked_num_classes": "estimate"}, force_add=True)
    save_config(tmp_path, became, asked=asked)

    def resume(word):
        words = ["experiment=cub_hypgcd", "encoder=small", f"resume={tmp_path}", word]
        config = resumed_config(compose(*words, resolve=False), words)
        release(tmp_path)
        return config.discovery.num_classes

    assert resume("discovery.num_classes=estimate") == resume("discovery.num_classes=7") == 7
    with pytest.raises(UserError, match="this run has discovery.num_classes=7"):
        resume("discovery.num_classes=8")


def test_a_run_of_an_older_version_takes_keys_that_act_from_now_on(run, compose, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "asked.yaml").unlink()
    config = OmegaConf.load(old / "config.yaml")
    del config.data.on_error
    OmegaConf.save(config, old / "config.yaml")

    def resume(*words):
        words = ["experiment=cub_meru", "encoder=small", f"resume={old}", *words]
        config = resumed_config(compose(*words, resolve=False), words)
        release(old)
        return config

    assert resume("data.on_error=skip").data.on_error == "skip"
    assert "on_error" not in resume("~data.on_error").data
    with pytest.raises(UserError, match="configuration has no key encoder.image.norm_epsilon"):
        resume("++encoder.image.norm_epsilon=0.1")


def test_a_choice_of_a_group_that_says_something_else_is_refused(resumed):
    resumed("encoder=small", "data=cub")
    with pytest.raises(UserError, match="encoder=vit_tiny: this run began with encoder=small, and a resumed run keeps"):
        resumed("encoder=vit_tiny")
    with pytest.raises(UserError, match="data=birds: this run began with data=cub"):
        resumed("data=birds")


def test_another_logger_is_taken(resumed):
    assert resumed("logger=wandb", "logger.mode=offline").logger.mode == "offline"


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("trainer.epochs=0", "trainer.epochs=0: give a whole number"),
        ("~trainer.compile", "keeps all its keys"),
        ("trainer.nonsense=1", "no key trainer.nonsense"),
        ("optim.learning_rate=nan", "optim.learning_rate=nan: give a number"),
    ],
)
def test_a_wrong_key_is_one_line(run, compose, word, what):
    words = [f"resume={run}", word]
    with pytest.raises(UserError, match=what):
        resumed_config(compose("experiment=cub_meru", f"resume={run}", resolve=False), words)


def test_what_a_resumed_run_does_differently_is_kept(resumed, run, make_cub_folder):
    """Last, as the run is another one afterwards."""
    elsewhere = make_cub_folder("moved")
    train(resumed("trainer.epochs=2", f"data.root={elsewhere}"), device=torch.device("cpu"))
    config = read_config(run)
    assert config.trainer.epochs == 2 and config.data.load.root == str(elsewhere)
    assert "${data.root}" in (run / "asked.yaml").read_text()
    assert choices_of(run)["encoder"] == "small"
    assert OmegaConf.load(run / "config.yaml").data.load.root == str(elsewhere)


def test_resume_alone_is_enough_whatever_model_the_run_has(run, compose):
    words = [f"resume={run}"]
    config = resumed_config(compose("model=clip", *words, resolve=False), words)
    assert config.model._target_.endswith("MERU")
    words.append("model=clip")
    with pytest.raises(UserError, match="is a run of MERU: use the command that began it"):
        resumed_config(compose(*words, resolve=False), words)


def test_data_that_are_gone_are_asked_for_and_not_drawn_anew(resumed, tmp_path):
    config = resumed(f"data.root={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"not at .*nowhere: set their place with data\.root=<folder>"):
        require_data(config, key="data.root")
    assert not (tmp_path / "nowhere").exists()
