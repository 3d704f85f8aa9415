"""Run folders of older versions are read under the present names of keys and targets."""

import pytest
from omegaconf import OmegaConf

from meru.configuration import check, older, unknown_key
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


@pytest.mark.parametrize(("before", "now"), [("L1_W100", "L1_W100_A1"), ("L3_W192", "L3_W192"), ("L1_W32_A2",) * 2])
def test_heads_that_were_guessed_are_kept(before, now):
    assert read(encoder={"text": {"architecture": before}})["encoder"]["text"]["architecture"] == now


def test_names_with_dots_and_empty_sections_stay_what_they_are(renamed):
    same = {"optim": {"multipliers": {"local": 5.0, "local.predictor": 1.0}}, "own": {"options": {}, "list": [1, 2]}}
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
    assert read(data={"load": {"_target_": old}})["data"]["load"] == {"_target_": new}


BEFORE = {  # prompts and words of parts of every run, before they were keys
    "prompts": [
        "a photo of a {}.", "a photo of a {}, a type of bird.", "a close-up photo of a {}.",
        "a {} perched on a branch.", "a {} in the wild.", "this bird is a {}.",
    ],
    "whole": "bird",
    "part_words": {
        "beak": ["bill", "bills", "beak", "beaks"], "crown": ["crown"], "forehead": ["forehead"],
        "eye": ["eye", "eyes"], "throat": ["throat"], "breast": ["breast"], "belly": ["belly"], "back": ["back"],
        "nape": ["nape"], "wing": ["wing", "wings"], "leg": ["leg", "legs"], "tail": ["tail"],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("loader", "families"),
    [
        ("meru.data.discovery_fine_grained.load_cub_discovery", "last_word"),
        ("meru.data.discovery_fine_grained.load_birds_discovery", "last_word"),
        ("meru.data.discovery_fine_grained.load_aircraft_discovery", "file"),
        ("my_project.load_mine", "file"),
    ],
)
def test_what_held_before_a_data_set_had_prompts_and_families_of_its_own(loader, families):
    found = read(data={"root": "here", "discovery": {"_target_": loader, "root": "${data.root}"}})["data"]
    assert found.pop("load_discovery") == {"_target_": new_target(loader), "root": "here"}
    assert found == {"root": "here", **BEFORE, "families": families}
    persons = read(data={"load": {"_target_": "meru.data.person_search.load_cuhk_pedes"}})["data"]
    assert {name: value for name, value in persons.items() if name != "load"} == dict.fromkeys((*BEFORE, "families"))
    own = {"root": "here", "prompts": None, "whole": None, "part_words": None, "families": None}
    assert read(data=own) == {"data": own}


PATCHES = {"mode": "tokens", "merge": 2, "top": 4, "grid": 3, "crops": ["box"], "window": [0.3, 0.5]}
OF_MODEL = {"_target_": "meru.models.meru_patches.MERUPatches", **{name: f"${{patches.{name}}}" for name in PATCHES}}


@pytest.mark.parametrize(
    ("mode", "model", "target", "kept"),
    [
        ("tokens", "meru_patches", "meru.models.meru_patches.MERUPatches", {"merge": 2, "top": 4}),
        ("crops", "hycoclip", "meru.models.hycoclip.HyCoCLIP", {}),
        ("grid", "meru_grid", "meru.models.meru_grid.MERUGrid", {"grid": 3}),
    ],
)
def test_modes_of_meru_patches_are_models_with_what_they_take(mode, model, target, kept):
    of_mode = "${oc.select:loss.part_entailment.weight_of_mode.${patches.mode},0.0}"
    weights = {"weight": of_mode, "weight_of_mode": {"tokens": 0.0, "grid": 0.1}}
    given = {name: value for name, value in OF_MODEL.items() if name not in ("crops", "window")}
    found = read(
        patches={**PATCHES, "mode": mode},
        model=given,
        loss={"part_entailment": weights},
        choices={"model": "meru_patches"},
    )
    assert found["model"] == {"_target_": target, "space": "hyperboloid", **kept}
    assert found["choices"] == {"model": model}
    assert found["loss"] == {"part_entailment": {"weight": 0.1 if mode == "grid" else 0.0}}
    assert found.get("parts") == ({"crops": ["box"], "window": [0.3, 0.5]} if mode == "crops" else None)
    assert "patches" not in found


def test_before_models_had_a_space_it_was_the_hyperboloid():
    target = "meru.models.meru.MERU"
    assert read(model={"_target_": target})["model"] == {"_target_": target, "space": "hyperboloid"}
    assert read(model={"_target_": target, "space": "sphere"})["model"] == {"_target_": target, "space": "sphere"}
    for other in ("meru.models.clip.CLIP", "my_project.Mine"):
        assert read(model={"_target_": other})["model"] == {"_target_": other}


def test_the_released_code_is_a_model_of_its_own():
    target, plain = "meru.models.hypgcd_released.HypGCDReleased", "meru.models.hypgcd.HypGCD"
    assert read(model={"_target_": plain, "released": True, "clip": 2.3})["model"] == {"_target_": target, "clip": 2.3}
    assert read(model={"_target_": plain, "released": False})["model"] == {"_target_": plain}


@pytest.mark.parametrize(("space", "now"), [("lorentz", "hyperboloid"), ("cosine", "sphere")])
def test_settings_of_gahr_are_those_of_its_model_and_terms(space, now):
    terms = {
        "semantic_margin": {"margin": "${sms.margin}"},
        "word_contrast": {"weight": "${bai.weight}", "scope": "${bai.scope}"},
        "patch_agreement": {"weight": "${bai.weight}"},
    }
    found = read(
        space=space,
        sms={"margin": 0.05},
        bai={"weight": 0.1, "scope": "batch", "class_token": True},
        patches={"mode": "tokens", "class_token": "${bai.class_token}", "crops": ["box"]},
        model={
            "_target_": "meru.models.gahr.GAHR", "space": "${space}", "mode": "${patches.mode}",
            "class_token": "${patches.class_token}",
        },
        loss=terms,
    )  # fmt: skip
    assert found == {
        "model": {"_target_": "meru.models.gahr.GAHR", "space": now, "class_token": True},
        "loss": {
            "semantic_margin": {"margin": 0.05},
            "word_contrast": {"weight": 0.1, "scope": "batch"},
            "patch_agreement": {"weight": 0.1},
        },
    }


@pytest.mark.parametrize(
    ("key", "now"),
    [
        ("sms.margin", "loss.semantic_margin.margin"),
        ("bai.scope", "loss.word_contrast.scope"),
        ("bai.weight", "loss.word_contrast.weight and loss.patch_agreement.weight"),
        ("patches.merge", "model.merge"),
        ("patches.crops", "parts.crops"),
        ("patches.mode", "the model: model=meru_patches for tokens"),
        ("space", r"model.space \(hyperboloid for lorentz, sphere for cosine\)"),
        ("model.released", "a model of its own: model=hypgcd_released"),
        ("loss.part_entailment.weight_of_mode.grid", "loss.part_entailment.weight"),
    ],
)
def test_each_old_key_of_models_leads_to_what_to_write_now(key, now):
    with pytest.raises(UserError, match=f"^{key}: this key is now {now}"):
        raise unknown_key(key, command="train")


def test_every_moved_module_exists_where_it_is_said_to_be():
    for module in older.MOVED_MODULES.values():
        __import__(module)


def test_who_types_an_old_key_is_told_the_new_one(renamed, compose):
    config = compose("experiment=birds_clip")
    OmegaConf.update(config, "before.margin", 0.1, force_add=True)
    with pytest.raises(UserError, match="^before.margin: this key is now after.margin$"):
        check(config, command="train")


def test_cached_views_are_a_key_of_the_data():
    found = read(discovery={"cached_views": 8, "sampler": "weighted"}, data={"prompts": None})
    assert found["data"]["cached_views"] == 8 and found["discovery"] == {"sampler": "weighted"}
    assert "this key is now data.cached_views" in str(unknown_key("discovery.cached_views", command="train"))
