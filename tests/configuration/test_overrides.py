"""Words of the command line as wandb's agents write them."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from meru.configuration.overrides import overrides_of, readable
from meru.errors import UserError


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--optim.learning_rate=1e-05", {"optim.learning_rate": 1e-05}),
        ("--trainer.epochs=3", {"trainer.epochs": 3}),
        ("--trainer.compile=True", {"trainer.compile": True}),
        ("--encoder.init=None", {"encoder.init": None}),
        ("--data.crop_scale=[0.5, 1.0]", {"data.crop_scale": [0.5, 1.0]}),
        ("--logger.tags=['a, b', \"it's\", None, True]", {"logger.tags": ["a, b", "it's", None, True]}),
        ("--model={'curvature': 0.5}", {"model.curvature": 0.5}),
        (
            "--optim={'learning_rate': 0.1, 'optimizer': {'betas': [0.9, 0.98], 'foreach': None}}",
            {"optim.learning_rate": 0.1, "optim.optimizer.betas": [0.9, 0.98], "optim.optimizer.foreach": None},
        ),
        ("--data.root=/data/my birds", {"data.root": "/data/my birds"}),
        ("--name=a=b", {"name": "a=b"}),
        ("--name=None of them", {"name": "None of them"}),
        ("--experiment=birds_meru", {"experiment": "birds_meru"}),
        ("--seed=1,2", {"seed": "1,2"}),
        ("--logger=none", {"logger": "none"}),
    ],
)
def test_a_parameter_of_a_sweep_is_an_override(word, expected):
    words = readable(["-m" * (word == "--seed=1,2") or "seed=0", *overrides_of(word)], command="train")[1:]
    parsed = [OverridesParser.create().parse_override(each) for each in words]
    sweeps = {each.key_or_group: each.get_value_string() for each in parsed if each.is_sweep_override()}
    assert {each.key_or_group: each.value() for each in parsed if not each.is_sweep_override()} | sweeps == expected


@pytest.mark.parametrize(
    "word",
    ["--cfg=job", "--cfg", "job", "--help", "--multirun", "-m", "--config-name=evaluate", "--package=a.b", "--info"],
)
def test_hydras_own_flags_stay_flags(word):
    assert overrides_of(word) == [word]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "3"], "--epochs 3: no such flag; write trainer.epochs=3"),
        (["--lr", "1e-4", "seed=1"], "--lr 1e-4: no such flag; write optim.learning_rate=1e-4"),
        (["--log-every", "--seed"], "--log-every: no such flag; write trainer.log_every=<value>"),
        (["-seed", "2"], "-seed 2: no such flag; write seed=2"),
    ],
)
def test_flags_as_other_programs_have_them_are_translated(words, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        readable(words, command="train")


@pytest.mark.parametrize("word", ["seed=None", "name='x'", "+a.b=[1, 2]", "~logger"])
def test_what_a_person_writes_stays_as_it_is(word):
    assert overrides_of(word) == [word]
