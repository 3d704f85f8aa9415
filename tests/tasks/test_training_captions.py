"""Runs on other captions: training sees them, evaluation does not, and every process and resumed run has the same."""

import json
import logging

import pytest
import torch

import meru
from meru.assemble import build
from meru.configuration import check
from meru.configuration.older import modernised
from meru.data.sampling import BatchPlan
from meru.errors import UserError
from meru.evaluation.suite import CAPTIONS
from meru.runs.train import train
from meru.tasks.data import load_data, load_for_suite
from meru.tasks.image_text import ImageText

DEVICE = torch.device("cpu")
SMALL = (
    "data=cub", "encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
    "data.batch_size=4", "data.workers=0", "trainer.epochs=1", "logger=none",
)  # fmt: skip


@pytest.fixture
def configuration(compose, cub_folder):
    def make(*overrides):
        config = compose(*SMALL, f"data.root={cub_folder}", *overrides)
        check(config, command="train")
        return config

    return make


@pytest.fixture
def captions(cub_folder, tmp_path):
    """A file with a caption for every image of the first class."""
    folder = min((cub_folder / "images").iterdir())
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({f"{folder.name}/{each.name}": ["a generated one"] for each in folder.iterdir()}))
    return path


def task_of(config):
    return ImageText(config, device=DEVICE)


def test_wrong_captions_are_trained_on_counted_in_the_log_and_not_evaluated_on(configuration, caplog):
    caplog.set_level(logging.INFO, logger="meru")
    true, noisy = (task_of(configuration(f"data.caption_noise={share}")) for share in (0, 0.5))
    assert true.taught == true.data.train
    assert noisy.taught != true.taught and noisy.data == true.data
    assert [line for line in caplog.messages if "wrong captions" in line] == [
        "wrong captions: 45 of 90 training pairs have one of another class (data.caption_noise=0.5, symmetric)"
    ]


def test_method_and_training_seed_do_not_change_which_captions_are_wrong(configuration):
    noise = ("data.caption_noise=0.3", "data.caption_noise_kind=nearest")
    first = task_of(configuration(*noise)).taught
    assert task_of(configuration(*noise, "model=clip", "seed=7")).taught == first
    assert task_of(configuration(*noise, "data.split_seed=1")).taught != first


def test_the_batches_hold_the_captions_to_train_on(configuration, captions):
    task = task_of(configuration(f"data.captions_from={captions}", "data.captions_mode=replace"))
    pretrained = build(task.config)
    plan = BatchPlan.of(task.config.data, images=9, world_size=1, accumulate=1)
    generated, seen = pretrained.tokenizer("a generated one"), {True: 0, False: 0}
    for batch in task.batches(pretrained, plan, 0):
        for tokens, number in zip(batch["tokens"], batch["class_index"].tolist(), strict=True):
            is_generated = tokens[: len(generated)].tolist() == generated.tolist()
            assert is_generated == (number == 0)
            seen[is_generated] += 1
    assert all(seen.values())


def test_a_file_of_captions_is_for_training_only_unless_evaluation_is_to_have_it(configuration, captions, caplog):
    caplog.set_level(logging.INFO, logger="meru")
    given = (f"data.captions_from={captions}", "data.captions_mode=replace")
    own, other = (task_of(configuration(*given, f"data.evaluate_generated={flag}")) for flag in ("false", "true"))
    assert {each.captions for each in own.taught if each.class_index == 0} == {("a generated one",)}
    assert other.taught == own.taught
    assert "a generated one" not in str(own.data.test) and "a generated one" in str(other.data.test)
    assert "for 3 training images; 6 without an entry keep their own; 0 entries are of no image" in caplog.text


@pytest.mark.parametrize("evaluated", [False, True])
def test_suites_and_pictures_read_the_captions_that_the_evaluation_of_the_run_does(evaluated, configuration, captions):
    flag = str(evaluated).lower()
    config = configuration(f"data.captions_from={captions}", f"data.evaluate_generated={flag}", "data.caption_noise=1")
    task = task_of(config)
    for data in (load_for_suite(config, CAPTIONS, suite="retrieval"), load_data(config)):
        assert data == task.data and ("a generated one" in str(data.test)) == evaluated


@pytest.mark.parametrize(
    "keys",
    [
        ("data.captions_from={captions}", "data.captions_mode=mix", "data.caption_noise=0.2"),
        ("data.caption_noise=0.5", "model=hycoclip", "encoder=mobilenetv2", "encoder.image.weights={weights}",
         "encoder.image.train_last_blocks=0", "data.cached_views=2", "data.cache={cache}"),
    ],
)  # fmt: skip
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    keys, configuration, captions, mobilenet_weights, tmp_path, train_until_step_3
):
    places = {"captions": captions, "weights": mobilenet_weights, "cache": tmp_path / "cache"}
    keys = [key.format(**places) for key in keys]
    keys += ["encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "trainer.checkpoint_every=3"]
    keys += ["trainer.epochs=2"]
    train(configuration(*keys, f"folder={tmp_path / 'whole'}"), device=DEVICE)
    config = configuration(*keys, f"folder={tmp_path / 'stopped'}")
    train_until_step_3(config)
    config.resume, config.folder = str(tmp_path / "stopped"), None
    train(config, device=DEVICE)
    weights = [meru.load(tmp_path / folder).model.state_dict() for folder in ("whole", "stopped")]
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])


def test_a_run_from_before_these_keys_trains_on_the_data_as_they_are(configuration):
    config = configuration()
    for key in ("captions_from", "captions_mode", "generated_share", "evaluate_generated", "caption_noise"):
        del config.data[key]
    task = task_of(config)
    assert task.taught == task.data.train
    assert modernised(config).data.caption_noise == 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.caption_noise=1.5",), r"^data.caption_noise=1.5: "),
        (("data.caption_noise=-0.1",), r"^data.caption_noise=-0.1: "),
        (("data.caption_noise_kind=worst",), r"^data.caption_noise_kind=worst: "),
        (("data.generated_share=2",), r"^data.generated_share=2: "),
        (("data.captions_mode=both",), r"^data.captions_mode=both: "),
        (("loss.contrastive.robust_exponent=1",), r"^loss.contrastive.robust_exponent=1: "),
        (("data.evaluate_generated=true",), r"^data.evaluate_generated=true: there is no file of captions"),
        (("model=simgcd", "data.caption_noise=0.2"), r"^data.caption_noise=0.2: category discovery trains without"),
        (("model=simgcd", "data.captions_from=a.json"), r"^data.captions_from=a.json: category discovery trains"),
    ],
)
def test_values_that_make_no_sense_are_refused_before_a_run_begins(words, message, compose):
    with pytest.raises(UserError, match=message) as error:
        check(compose("data=cub", *words, resolve=False), command="train")
    assert "\n" not in str(error.value)


def test_a_faulty_file_stops_a_run_before_its_folder_is_made(configuration, tmp_path):
    (tmp_path / "captions.json").write_text('{"owl.jpg": ["an owl"]}')
    folder = tmp_path / "run"
    config = configuration(f"data.captions_from={tmp_path / 'captions.json'}", f"folder={folder}")
    with pytest.raises(UserError, match="none of its 1 images, such as owl.jpg, is a training image"):
        train(config, device=DEVICE)
    assert not folder.exists()
