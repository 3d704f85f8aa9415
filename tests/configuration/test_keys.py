"""Keys that nothing reads, that are missing or contradict each other: one line before anything is made."""

import copy
import functools
import re

import hydra
import pytest
from omegaconf import OmegaConf

from meru.configuration import (
    absent_key,
    absolute_paths,
    check,
    notes,
    unknown_key,
)
from meru.configuration.composing import compose
from meru.configuration.overrides import typed_keys
from meru.errors import UserError
from meru.files import PROJECT


@functools.cache
def composed(*choices):
    """The configuration as scripts/train.py has it, interpolations unresolved."""
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        config = hydra.compose("train", list(choices))
    config.name = "name"  # which says what was chosen, and Hydra alone knows that
    return config


def changed(words):
    """Choices of groups are composed once for all tests; `key=value`, `+key=value` and `~key` are put in by hand."""
    choices = [word for word in words if re.match("(data|encoder|model|optim|logger|experiment)=", word)]
    config = copy.deepcopy(composed(*choices))
    OmegaConf.set_struct(config, False)
    for word in words:
        key, value = word.lstrip("+~").partition("=")[::2]
        if word.startswith("~"):
            section, _, name = key.rpartition(".")
            del OmegaConf.select(config, section)[name]
        elif word not in choices:
            OmegaConf.update(config, key, OmegaConf.create(f"x: {value}").x, force_add=True)
    return config


@pytest.mark.parametrize("choice", ["model=hycoclip", "encoder=vit_base", "encoder=vit_small", "encoder=vit_tiny"])
def test_files_without_a_recipe_pass(choice):
    check(changed([choice]), command="train")


def test_what_the_evaluation_has_passes_once_the_run_is_named():
    config = OmegaConf.load(PROJECT / "configs" / "evaluate.yaml")
    del config.defaults, config.hydra
    with pytest.raises(UserError, match="^run= is missing: give the path of a folder$"):
        check(config, command="evaluate")
    config.run = "runs/x"
    check(config, command="evaluate")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.epoch=3"], "trainer.epoch: no such key; did you mean trainer.epochs?"),
        (["+epochs=3"], "epochs: no such key; did you mean trainer.epochs"),
        (["+loss.entailmnt.weight=3"], "did you mean loss.entailment.weight?"),
        (["+loss.nonsense.weight=1"], "loss.nonsense.weight: no such key; loss has contrastive, semantic_margin"),
        (["+data.foo.bar=1"], "data.foo.bar: no such key; data has validation_fraction"),
        (["+optim.nonsense=1"], "optim.nonsense: no such key; optim has optimizer, learning_rate"),
        (["+optim.optimizer.momentum=0.9"], "optim.optimizer.momentum: AdamW does not take it"),
        (["optim=sgd", "+optim.optimizer.betas=[0.9,0.9]"], "optim.optimizer.betas: SGD does not take it"),
        (["+data.load.identities=9"], "data.load.identities: load_birds does not take it"),
        (["encoder=clip_vit_b16", "+encoder.image.patch_level=3"], "clip_image_encoder does not take it"),
        (["+model.local_logit_scale=9"], "model.local_logit_scale: MERU does not take it; model may have curvature"),
        (["logger=none", "+logger.project=x"], "logger.project: NoLogger does not take it"),
        (["model=clip", "+loss.entailment.weight=1"], "this model (model=clip) has no such key; those that have it: "),
        (["+data.captions=/x"], "data.captions: this data set (data=birds) has no such key; those that have it: cub"),
        (["~trainer.epochs"], "trainer.epochs was removed, and a run needs it"),
        (["~data.batch_size"], "data.batch_size was removed, and a run needs it"),
        (["~loss.contrastive"], "loss.contrastive."),
    ],
)
def test_a_key_that_nothing_reads_and_one_that_is_missing_are_refused(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check(changed(overrides), command="train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("~trainer.epoch", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("~sms.margin", "sms.margin: this key is now loss.semantic_margin.margin"),
        ("~model.released", "model.released: this key is now a model of its own"),
        ("~space", "space: this key is now model.space"),
        ("~parts", "Could not delete from config. 'parts' does not exist"),  # known, but not of this model
    ],
)
def test_a_key_that_is_not_there_is_not_removed(word, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compose([word])


@pytest.mark.parametrize(
    "overrides",
    [
        ["+data.load.images_per_species=4"],
        ["+encoder.image.random_weights=true", "+encoder.image.arguments={embed_dim: 64, depth: 1}"],
        ["+optim.multipliers.classifier=0.3", "~optim.optimizer.fused"],
        ["model=meru_patches", "+model.local_logit_scale=3"],
        ["model=simgcd", "+data.load_discovery.image_size=32"],
        ["data=pedestrians", "data.image_augmentation=null"],
        ["+data.load.anything=3", "data.load._target_=somebody.elses.loader"],
    ],
)
def test_optional_keys_may_be_added_and_removed(overrides):
    check(changed(overrides), command="train")


def test_a_configuration_of_an_older_version_may_lack_keys_and_have_others():
    config = changed(["experiment=birds_meru"])
    del config.trainer.tf32
    config.trainer.old = 3
    check(config, command="train", partial=True)
    config.trainer.epochs = "abc"
    with pytest.raises(UserError, match=r"^trainer\.epochs=abc"):
        check(config, command="train", partial=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.monitor=loss"], "trainer.monitor=loss: give a figure of the validation split whose highest value"),
        (["trainer.monitor=hierarchy/tree_induced_error"], "whose highest value is best, such as"),
        (["trainer.monitor=accuracy"], "trainer.monitor=accuracy: give a figure of the validation split whose highest"),
        (["data.monitor=zero_shot/acuracy@1"], "such as zero_shot/accuracy@1"),
        (["data=pedestrians", "trainer.monitor=text_to_image/class/recall@1"], "text_to_image/identity/recall@1"),
        (["experiment=cub_hypgcd", "discovery.neighbours=200"], "give at most data.batch_size=128"),
        (["loss.contrastive.weight=0", "loss.entailment.weight=0"], "every loss.….weight is 0"),
        (["encoder.image.name=vit_smal_patch16_224"], "timm has no such network; did you mean vit_small_patch16_224"),
        (["model=simgcd", "data=pedestrians"], "has no split for discovery"),
        (["data=cars"], "has no captions"),
        (["experiment=cub_hypgcd", "+evaluation.attention_pictures=3"], "this model (model=hypgcd) has no such key"),
    ],
)
def test_keys_that_contradict_each_other_are_said_before_the_data_are_read(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check(changed(overrides), command="train")
    assert len(str(caught.value)) < 250


def test_a_warm_up_longer_than_the_run_is_noted_and_not_refused():
    config = changed(["experiment=cub_gahr", "trainer.epochs=1"])
    check(config, command="train")
    assert notes(config) == [
        "trainer.warmup_epochs=2.0 with trainer.epochs=1: the learning rate never reaches optim.learning_rate"
    ]


@pytest.mark.parametrize(
    "weights", ["encoder.init=meru.pth", "+encoder.image.pretrained=true", "optim.learning_rate=5e-4"]
)
def test_a_rate_for_fine_tuning_is_noted_where_towers_start_from_scratch(weights):
    words = ["experiment=cub_meru", "encoder=vit_small"]
    (note,) = notes(changed(words))
    assert note.startswith("optim.learning_rate=1e-05 is meant for fine-tuning, but vit_small_patch16_224 starts from")
    assert notes(changed([*words, weights])) == notes(changed(["experiment=cub_meru"])) == []


def test_paths_become_absolute_where_they_stand_and_what_follows_them_still_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    config = OmegaConf.create(
        {
            "output": "runs",
            "folder": None,
            "data": {"root": "鸟 1,2", "captions": "~/text", "load": {"root": "${data.root}", "_target_": "a.b"}},
            "encoder": {"init": "/m.pth"},
        }
    )
    absolute_paths(config)
    assert config.output == str(tmp_path / "runs") and config.folder is None
    assert config.data.root == config.data.load.root == str(tmp_path / "鸟 1,2")
    assert config.data.captions == "/home/somebody/text" and config.encoder.init == "/m.pth"
    assert OmegaConf.is_interpolation(config.data.load, "root")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("encoder.image.image_sise", "no such key; did you mean encoder.image.image_size?"),
        ("optim.optimizer.beta", "no such key; did you mean optim.optimizer.betas?"),
        ("optim.optimizer.amsgrad", "write +optim.optimizer.amsgrad=<value>"),
        ("optim.multipliers.text", "write +optim.multipliers.text=<value>"),
    ],
)
def test_a_misspelt_argument_is_told_from_one_that_is_left_out(key, message):
    assert message in str(absent_key(key))


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=birds_meru_patches", "model=clip", "~model.merge"],
        ["experiment=cub_gahr", "model=meru", "~model.class_token"],
        ["experiment=cub_hypgcd", "model=clip"],
        ["experiment=pedestrians_gahr", "model=clip", "~model.norm_exponent"],
    ],
)
def test_keys_of_a_recipe_whose_model_was_replaced_are_no_fault_of_the_user(compose, words):
    check(compose(*words), command="train", typed=typed_keys(words))
    with pytest.raises(UserError, match=r"model\.norm_exponent: CLIP does not take it; the recipe sets it"):
        check(compose("experiment=pedestrians_gahr", "model=clip"), command="train", typed=set())
    with pytest.raises(UserError, match=r"parts\.crops: this model"):
        check(compose("model=meru", "+parts.crops=[box]"), command="train", typed={"parts.crops"})


def test_a_key_in_the_wrong_section_or_by_its_short_name_leads_to_the_right_one():
    assert "data.batch_size?" in str(unknown_key("trainer.batch_size", command="train"))
    assert "did you mean optim.learning_rate?" in str(unknown_key("optim.lr", command="train"))
