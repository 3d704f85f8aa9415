"""What a data set's own loader is given and has to return; a mistake in it is one line."""

import sys
import types

import pytest
from omegaconf import OmegaConf

from meru.data.records import ImageTextData
from meru.errors import UserError
from meru.tasks.data import load_data, load_discovery_data


@pytest.fixture
def mine(monkeypatch):
    module = types.ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def config(kind="load", **section):
    return OmegaConf.create({"data": {kind: {"_target_": "mine.read", **section}, "families": None}})


def test_it_is_called_with_the_keys_of_its_section(mine):
    given = {}
    data = ImageTextData((), (), (), ())
    mine.read = lambda **keywords: given.update(keywords) or data
    assert load_data(config(root="here", colour="red")) is data
    assert given == {"root": "here", "colour": "red"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("load", "^data.load: mine.read returned list; it must return meru.data.records.ImageTextData$"),
        (
            "load_discovery",
            "^data.load_discovery: mine.read returned list; it must return meru.data.discovery.splits.DiscoveryData$",
        ),
    ],
)
def test_what_it_has_to_return(mine, kind, message):
    mine.read = lambda root: ["a.jpg"]
    load = load_data if kind == "load" else load_discovery_data
    with pytest.raises(UserError, match=message):
        load(config(kind, root="here"))


def test_it_does_not_take_a_key(mine):
    mine.read = lambda root: None
    with pytest.raises(UserError, match=r"keys of data.load as keyword arguments \(root, colour\) .*'colour'"):
        load_data(config(root="here", colour="red"))


def test_it_cannot_be_imported(mine):
    with pytest.raises(UserError, match=r"^data.load._target_=mine.read cannot be imported \(.*\)$") as error:
        load_data(config(root="here"))
    assert "\n" not in str(error.value)
