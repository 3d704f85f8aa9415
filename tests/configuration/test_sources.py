"""What the configuration declares is what the code takes."""

import inspect
import sys

import pytest
import timm
from hydra.utils import get_object

from meru.configuration import (
    fixed_on_resume,
)
from meru.configuration.check import OPTIMIZERS
from meru.configuration.declarations import EVALUATE, TRAIN
from meru.configuration.kinds import (
    ListOf,
)
from meru.configuration.suite_settings import SETTINGS
from meru.configuration.targets import arguments_of, files_of, timm_models
from meru.data.augmentation import INTERPOLATIONS, augmentation_pool
from meru.data.datasets import karpathy_splits
from meru.data.datasets.person_search import LAYOUTS
from meru.data.discovery.loading import SAMPLERS
from meru.data.parts import CropParts
from meru.evaluation.suites import SUITES
from meru.files import PROJECT
from meru.geometry.spaces import SPACES
from meru.layers.bidirectional_attention import ACTIVATIONS
from meru.losses.contrastive import POSITIVES
from meru.losses.hypgcd import ANCESTORS
from meru.losses.interaction import SCOPES
from meru.losses.semantic_margin import MARGIN_SOURCES
from meru.training.settings import TrainerSettings


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
        ("data.load.layout", {*LAYOUTS, *karpathy_splits.LAYOUTS}),
        ("data.image_augmentation.interpolation", INTERPOLATIONS),
        ("data.image_augmentation.pool", augmentation_pool(8)),
        ("parts.crops", CropParts.KINDS),
        ("suite", SUITES),
    ],
)
def test_choices_are_those_that_the_code_has(key, words):
    kind = {**TRAIN, **EVALUATE}[key].kind
    assert set((kind.item if isinstance(kind, ListOf) else kind).words) == set(words)


def test_only_suites_that_there_are_name_their_settings():
    assert SETTINGS.keys() - {None} <= SUITES.keys()


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


def test_networks_are_those_of_timm():
    assert set(timm.list_models()) <= timm_models() and "no_such_net" not in timm_models()


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
