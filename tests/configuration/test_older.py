"""Run folders of older versions are read under the present names of keys and targets."""

import pytest
from omegaconf import OmegaConf

from meru.configuration import check, older
from meru.configuration.older import modernised, new_key, new_target
from meru.errors import UserError


@pytest.fixture
def renamed(monkeypatch):
    names = {"sms.margin": "loss.semantic_margin.margin", "patches": "model", "before": "after"}
    monkeypatch.setattr(older, "RENAMED_KEYS", names)


def read(**sections):
    return OmegaConf.to_container(modernised(OmegaConf.create(sections)), resolve=True)


def test_a_key_that_was_interpolated_from_its_old_name_has_the_old_value(renamed):
    margin = {"semantic_margin": {"margin": "${sms.margin}", "weight": 1.0}}
    assert read(sms={"margin": 0.05}, loss=margin) == {"loss": {"semantic_margin": {"margin": 0.05, "weight": 1.0}}}


def test_a_value_that_was_set_by_itself_is_kept(renamed):
    margin = {"semantic_margin": {"margin": 0.3}}
    assert read(sms={"margin": 0.05}, loss=margin) == {"loss": margin}


def test_what_other_keys_interpolated_from_an_old_one_follows_the_new_one(renamed):
    found = read(sms={"margin": 0.05}, loss={"semantic_margin": {"margin": "${sms.margin}"}}, mine="${sms.margin}")
    assert found["mine"] == 0.05


def test_a_section_moves_with_all_that_is_in_it(renamed):
    assert read(patches={"merge": 2, "deep": {"top": 4}}) == {"model": {"merge": 2, "deep": {"top": 4}}}
    assert new_key("patches.merge") == "model.merge" and new_key("patches") == "model"
    assert new_key("patchesque.merge") is None


def test_names_with_dots_and_empty_sections_stay_what_they_are(renamed):
    same = {"optim": {"multipliers": {"local": 5.0, "local.predictor": 1.0}}, "data": {"options": {}, "list": [1, 2]}}
    assert read(**same) == same


@pytest.mark.parametrize(
    "old, new",
    [
        ("meru.data.birds.load_birds", "meru.data.synthetic.birds.load.load_birds"),
        ("meru.data.cub.load_cub", "meru.data.datasets.cub.load_cub"),
        ("my_project.data.cub.load_cub", "my_project.data.cub.load_cub"),
        (None, None),
    ],
)
def test_targets_are_found_where_they_are_now(old, new):
    assert new_target(old) == new
    assert read(data={"load": {"_target_": old}}) == {"data": {"load": {"_target_": new}}}


def test_every_moved_module_exists_where_it_is_said_to_be():
    for module in older.MOVED_MODULES.values():
        __import__(module)


def test_who_types_an_old_key_is_told_the_new_one(renamed, compose):
    config = compose("experiment=birds_clip")
    OmegaConf.update(config, "before.margin", 0.1, force_add=True)
    with pytest.raises(UserError, match="^before.margin: this key is now after.margin$"):
        check(config, command="train")
