"""Every key has a kind and a range, the recipes keep to them, and a fault is one line before anything is made."""

import copy
import functools
import importlib.util
import inspect
import math
import re
import sys

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from meru.configuration import (
    absent_key,
    absolute_paths,
    check,
    declaration,
    fixed_on_resume,
    notes,
    unknown_key,
)
from meru.configuration.check import OPTIMIZERS
from meru.configuration.composing import compose
from meru.configuration.declarations import DECLARED, EVALUATE, TRAIN
from meru.configuration.kinds import (
    Architecture,
    Choice,
    Either,
    FilePath,
    Flag,
    ListOf,
    Number,
    Plain,
    Section,
    Template,
    Text,
    Whole,
)
from meru.configuration.overrides import typed_keys
from meru.configuration.targets import arguments_of, files_of
from meru.data.augmentation import INTERPOLATIONS, augmentation_pool
from meru.data.datasets.person_search import LAYOUTS
from meru.data.discovery.loading import SAMPLERS
from meru.data.parts import CropParts
from meru.errors import UserError
from meru.files import PROJECT
from meru.geometry.spaces import SPACES
from meru.layers.bidirectional_attention import ACTIVATIONS
from meru.losses.contrastive import POSITIVES
from meru.losses.hypgcd import ANCESTORS
from meru.losses.interaction import SCOPES
from meru.losses.semantic_margin import MARGIN_SOURCES
from meru.tasks.image_text import ImageText
from meru.training.settings import TrainerSettings

WRONG = {
    Whole: ["abc", "", [1], {"a": 1}, True, 1.5, 4.0, math.nan, math.inf, -math.inf],
    Number: ["abc", "", "1", [1], {"a": 1}, True, math.nan, math.inf, -math.inf],
    Flag: ["yes", 0, 1, 1.0, [True], {"a": True}, math.nan],
    Choice: ["no such choice", "", 3, 1.5, True, [], {}, math.nan],
    Text: ["", " ", "a\0b", 3, 1.5, True, ["a"], {"a": "b"}, math.nan],
    FilePath: ["", " ", "a\0b", 3, 1.5, True, ["a"], {"a": "b"}, math.nan],
    Template: ["a bird", 3, True, math.nan, []],
    Architecture: ["huge", "L0_W64", "L2_W0", "L1_W100_A3", "L1_W64_A0x", "L999_W64_A1", "L1_W99999", 3, True, []],
    ListOf: ["abc", "", 3, 1.5, True, {"a": 1}, math.nan],
    Section: ["abc", 3, True, [1], math.nan],
    Plain: [math.nan, math.inf, [1, math.nan], {"a": -math.inf}],  # all else is for a library to judge
}


def wrong_values(kind):
    """What a kind must refuse, null aside, worked out from its bounds and not by asking it."""
    if isinstance(kind, Either):
        lists = [wrong_values(each) for each in kind.kinds]
        return [value for value in lists[0] if all(any(same(value, v) for v in values) for values in lists[1:])]
    values = list(WRONG[type(kind)])
    if isinstance(kind, Whole):
        values += [kind.least - 1, kind.most + 1, 10**12]
        values += [kind.least + 1] if kind.step > 1 else []
    if isinstance(kind, Number):
        low, high = kind.least - max(1e-3, abs(kind.least) * 1e-3), kind.most * 1.001 + 1e-3
        values += [low, high, *([kind.least] if kind.above else []), *([kind.most] if kind.below else [])]
    if isinstance(kind, ListOf):
        good = list(yaml_list(kind.example))
        values += [[*good[:-1], wrong] for wrong in wrong_values(kind.item)]
        values += [[]] if kind.least else []
        values += [[*good, *good]] if kind.most < 10 else []
        values += [good[::-1]] if kind.ascending else []
    return values


def yaml_list(text):
    return OmegaConf.to_container(OmegaConf.create(f"x: {text}"))["x"]


def same(one, other):
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


def with_value(key, value):
    """A configuration with that key alone."""
    config = {"x": value}["x"]
    for name in reversed(key.split(".")):
        config = {name: config}
    return OmegaConf.create(config)


@functools.cache
def composed(*choices):
    """The configuration as scripts/train.py has it, interpolations unresolved."""
    config, _ = compose(choices)
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


# -------------------------------------------------------------------- the files of configs/; recipes: test_configs.py


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


def test_every_key_has_a_meaning_and_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("document_keys", PROJECT / "scripts" / "document_keys.py")
    document_keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(document_keys)
    page = document_keys.page()
    assert document_keys.PAGE.read_text(encoding="utf-8") == page, "run python scripts/document_keys.py"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 200 and all(row.rstrip("| ").count("|") >= 4 for row in rows)
    assert not [row for row in rows if row.endswith("|  |")]


# ------------------------------------------------------------------------------------------ every key, bad values


@pytest.mark.parametrize(("command", "key"), [(command, key) for command in DECLARED for key in DECLARED[command]])
def test_a_bad_value_of_any_key_is_one_line_that_says_what_is_allowed(command, key):
    known = DECLARED[command][key]
    name = key.replace("*", "something")
    bad = [*wrong_values(known.kind), *([] if known.null else [None])]
    if isinstance(known.kind, Plain) and not known.null:
        bad = bad[:-1]
    assert bad
    for value in bad:
        with pytest.raises(UserError) as caught:
            check(with_value(name, value), command=command, partial=True)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 450
        inner = isinstance(known.kind, (Section, Plain)) and isinstance(value, (dict, list))
        assert message.startswith(f"{name}=") or inner
        assert known.allowed in message or inner
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("trainer.epochs", "abc", "give a whole number from 1 to 100000 (epochs)"),
        ("trainer.epochs", 1e9, "give a whole number from 1 to 100000 (epochs)"),
        ("optim.learning_rate", -1, "give a number from 0 to 1000"),
        ("trainer.ema_decay", 1, "give a number of at least 0 and below 1"),
        ("model.curvature", 0, "give a number above 0 and at most 10000"),
        ("discovery.cached_views", 3, "give a multiple of 2 from 0 to 1000 (views)"),
        ("loss.entailment.apex_floor", 0.5, "give 0, or a number above 1 and at most 1000"),
        ("discovery.num_classes", "many", "give a whole number from 2 to 1000000, or estimate (classes), or null"),
    ],
)
def test_the_line_in_full(key, value, allowed):
    shown = "1e+09" if value == 1e9 else value
    with pytest.raises(UserError, match=f"^{re.escape(f'{key}={shown}: {allowed}')}$"):
        check(with_value(key, value), command="train", partial=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.warmup_epochs", 2),
        ("trainer.final_learning_rate", 0.0),
        ("trainer.final_learning_rate", 1),
        ("trainer.clip_gradient_norm", None),
        ("optim.learning_rate", 1e-4),
        ("data.crop_scale", [1, 1]),
        ("loss.entailment.apex_floor", 0),
        ("encoder.text.architecture", "L2_W128"),
        ("encoder.image.pretrained", "openai"),
        ("discovery.num_classes", "estimate"),
        ("optim.multipliers.local.predictor", 0),
        ("folder", "/data/鸟类 (1), lr=1e-4"),
    ],
)
def test_values_at_the_edge_are_taken(key, value):
    assert declaration(key).takes(value)


# ------------------------------------------------------------------------------------------------- unknown keys


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
        (["encoder=clip_vit_b16", "+encoder.image.image_size=64"], "clip_image_encoder does not take it"),
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


# ---------------------------------------------------------------------------------------------- facts of two keys


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.monitor=accuracy"], "trainer.monitor=accuracy: give a figure of the validation split, such as"),
        (["data.monitor=zero_shot/acuracy@1"], "such as zero_shot/accuracy@1"),
        (["data=pedestrians", "trainer.monitor=text_to_image/class/recall@1"], "text_to_image/identity/recall@1"),
        (["experiment=cub_hypgcd", "discovery.neighbours=200"], "give at most data.batch_size=128"),
        (["loss.contrastive.weight=0", "loss.entailment.weight=0"], "every loss.….weight is 0"),
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
        "trainer.warmup_epochs=2.0 with trainer.epochs=1: the learning rate never gets to optim.learning_rate"
    ]


# --------------------------------------------------------------------------------------- one source, many readers


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("discovery.sampler", SAMPLERS),
        ("loss.hierarchy.ancestors", ANCESTORS),
        ("loss.word_contrast.scope", SCOPES),
        ("loss.semantic_margin.margin_source", MARGIN_SOURCES),
        ("loss.contrastive.positives", POSITIVES),
        ("model.space", SPACES),
        ("model.activation", ACTIVATIONS),
        ("data.load.layout", LAYOUTS),
        ("data.image_augmentation.interpolation", INTERPOLATIONS),
        ("data.image_augmentation.pool", augmentation_pool(8)),
        ("parts.crops", CropParts.KINDS),
        ("suite", ImageText.suites),
    ],
)
def test_choices_are_those_that_the_code_has(key, words):
    kind = {**TRAIN, **EVALUATE}[key].kind
    assert set((kind.item if isinstance(kind, ListOf) else kind).words) == set(words)


def test_the_trainer_has_the_declared_settings():
    declared = {key.partition(".")[2] for key in TRAIN if key.startswith("trainer.")}
    assert declared == set(inspect.signature(TrainerSettings).parameters)


@pytest.mark.parametrize("group", ["data", "encoder", "model", "logger"])
def test_arguments_are_read_as_python_sees_them(group):
    targets = {target for file in files_of(group) for target in file.targets}
    assert targets
    for target in targets:
        names, others = arguments_of(target)
        made = get_object(target)
        chain = [each for each in made.__mro__ if "__init__" in vars(each)] if isinstance(made, type) else [made]
        expected = set()
        for each in chain:
            parameters = inspect.signature(each.__init__ if isinstance(made, type) else each).parameters
            expected |= {name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
        else:
            assert others
        assert names == expected - {"self"}


@pytest.mark.parametrize("target", OPTIMIZERS)
def test_arguments_of_optimizers_are_those_of_torch(target):
    taken = set(inspect.signature(get_object(target)).parameters)
    assert (
        OPTIMIZERS[target] <= taken | {"fused"}
        and {"betas", "momentum"} & taken == {"betas", "momentum"} & OPTIMIZERS[target]
    )


def test_the_check_does_not_import_pytorch():
    import subprocess

    lines = "import sys, meru.configuration, meru.configuration.overrides; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert result.stdout == "False\n"


def test_what_a_resumed_run_may_change():
    fixed = [
        "seed", "name", "output", "folder", "task", "model.space", "trainer.accumulate", "data.batch_size",
        "data.batch_size_per_gpu", "data.validation_fraction", "data.split_seed", "data.labelled_fraction",
        "data.old_classes", "data.load.layout", "data.load._target_", "optim.optimizer._target_", "model._target_",
        "model.curvature", "encoder.image.name", "encoder.text.architecture", "encoder.init", "discovery.neighbours",
        "model.merge", "model.grid", "model.class_token", "model.word_window",
    ]  # fmt: skip
    acting = [
        "trainer.epochs", "trainer.precision", "trainer.ema_decay", "optim.learning_rate", "optim.multipliers.local",
        "loss.entailment.weight", "model.loss.entailment.weight", "evaluation.pointing", "logger.mode", "data.root",
        "data.captions", "data.load.root", "data.workers", "data.on_error", "data.flip", "encoder.text.dropout",
        "encoder.image.gradient_checkpointing", "data.image_augmentation.picks", "no.such.key",
    ]  # fmt: skip
    assert all(map(fixed_on_resume, fixed)) and not any(map(fixed_on_resume, acting))


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
