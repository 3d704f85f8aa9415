"""Every key has a kind and a range: a bad value is one line that says what is allowed."""

import math
import re

import pytest
from omegaconf import OmegaConf

from meru.configuration import (
    check,
    declaration,
)
from meru.configuration.declarations import DECLARED
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
from meru.errors import UserError

WRONG = {
    Whole: ["abc", "", [1], {"a": 1}, True, 1.5, 4.0, math.nan, math.inf, -math.inf],
    Number: ["abc", "", "1", [1], {"a": 1}, True, math.nan, math.inf, -math.inf],
    Flag: ["yes", 0, 1, 1.0, [True], {"a": True}, math.nan],
    Choice: ["no such choice", "", 3, 1.5, True, [], {}, math.nan],
    Text: ["", " ", "a\0b", 3, 1.5, True, ["a"], {"a": "b"}, math.nan],
    FilePath: ["", " ", "a\0b", 3, 1.5, True, ["a"], {"a": "b"}, math.nan],
    Template: ["a bird", 3, True, math.nan, []],
    Architecture: ["huge", "L0_W64", "L2_W0", "L1_W100_A3", "L1_W100", "L1_W64_A0", "L999_W64_A1", "L1_W99999", 3, []],
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
        ("data.cached_views", 3, "give a multiple of 2 from 0 to 1000 (views)"),
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
