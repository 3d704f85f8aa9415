"""What a run folder says of itself: kept as asked, changed as a whole, and never a way to run foreign code."""

import os

import pytest
import yaml
from omegaconf import OmegaConf

from meru.configuration.saved import change, check_targets, read_config, save_config
from meru.errors import UserError

SECTIONS = {"encoder": {}, "optim": {}, "trainer": {}, "evaluation": {}, "model": {}}


@pytest.fixture
def asked():
    return OmegaConf.create(
        {
            **SECTIONS,
            "data": {"root": "/old", "load": {"root": "${data.root}"}, "load_discovery": {"root": "${data.root}"}},
            "discovery": {"num_classes": None},
        }
    )


def test_a_changed_key_acts_wherever_it_was_interpolated(tmp_path, asked):
    save_config(tmp_path, asked)
    config = read_config(tmp_path)
    change(config, "data.root", "/new")
    assert config.data.load.root == config.data.load_discovery.root == config.data.root == "/new"


def test_config_yaml_is_resolved_and_asked_yaml_is_not(tmp_path, asked):
    became = asked.copy()
    became.discovery.num_classes = 7
    save_config(tmp_path, became, asked=asked)
    resolved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert resolved["data"]["load"]["root"] == "/old" and resolved["discovery"]["num_classes"] == 7
    kept = yaml.safe_load((tmp_path / "asked.yaml").read_text())
    assert kept["data"]["load"]["root"] == "${data.root}" and kept["discovery"]["num_classes"] is None
    assert read_config(tmp_path).discovery.num_classes == 7  # what it became counts


def test_what_is_edited_in_config_yaml_by_hand_counts(tmp_path, asked):
    save_config(tmp_path, asked)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("/old", "/moved", 1))  # data.root, not data.load.root
    config = read_config(tmp_path)
    assert config.data.root == config.data.load.root == "/moved"


def test_runs_of_older_versions_follow_as_this_versions_configs_interpolate(tmp_path, asked):
    asked.data.load.layout = "${data.root}"  # by chance the same value, but interpolated in no file of configs/
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(asked, resolve=True))
    config = read_config(tmp_path)
    config.data.load_discovery.root = "/elsewhere"  # changed by hand: it follows no more
    change(config, "data.root", "/new")
    assert config.data.load.root == "/new" and config.data.load_discovery.root == "/elsewhere"
    assert config.data.load.layout == "/old"


def test_the_data_of_a_checkout_that_was_moved_are_looked_for_in_the_present_one(tmp_path, compose):
    asked = OmegaConf.create({**SECTIONS, "data": {"root": "${project:data/birds}", "load": {"root": "${data.root}"}}})
    save_config(tmp_path, asked)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace(asked.data.root, "/a/checkout/that/was/moved/data/birds"))
    assert read_config(tmp_path).data.load.root == asked.data.root


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no section data"),
        (b"\x00\xff\xfe\x80binary", "damaged or not a configuration"),
        (b"data: {root: /x, load: {", "damaged or not a configuration"),
        (b"- a\n- b\n", "no keys and values"),
        (b"a sentence", "no section data"),
        (b"data: 3\nencoder: {}\nmodel: {}\noptim: {}\ntrainer: {}\nevaluation: {}\n", "no section data"),
        (b"data: {root: '${nowhere}'}\n", "damaged or not a configuration"),
        (b"[" * 20_000, "damaged or not a configuration"),
        (b"a: b\n" * 300_000, "is not a configuration"),
        (b"a: &a0 [1]\n" + b"".join(b"b%d: &a%d [*a%d,*a%d]\n" % (n, n + 1, n, n) for n in range(64)), "YAML aliases"),
    ],
)
def test_a_broken_config_yaml_is_named_in_one_line(tmp_path, content, what):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=what) as error:
        read_config(tmp_path)
    assert str(tmp_path / "config.yaml") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("encoder.image.arguments", "torch.load"),
        ("encoder.image.arguments", "meru.models.meru.MERU"),  # the right kind, in a place that is for none
        ("encoder.image", "os.system"),
        ("encoder.image", "meru.encoders.weights.torch.load"),  # through a module of ours
        ("encoder.image", "meru.encoders.weights.read_weights"),  # ours, and of another kind
        ("encoder.image", "meru.encoders.image._create"),
        ("encoder.image", 3),
        ("model", "subprocess.Popen"),
        ("model", "meru.models.clip.CLIP.__init__"),
        ("data.load", "meru.data.synthetic.birds.load.draw_birds"),
        ("data.load", "nowhere.at.all"),
        ("optim.optimizer", "builtins.exec"),
        ("logger", "meru.training.loggers.os.system"),
        ("evaluation.templates.0", "os.getcwd"),
    ],
)
def test_a_foreign_run_folder_instantiates_only_what_its_section_is_for(tmp_path, asked, place, target):
    if place.endswith(".0"):
        asked.evaluation.templates = [{"_target_": target}]
    else:
        OmegaConf.update(asked, f"{place}._target_", target, force_add=True)
    save_config(tmp_path, asked)
    with pytest.raises(UserError) as error:
        read_config(tmp_path)
    assert f"{place}._target_={target} is not permitted" in str(error.value)


def test_code_of_ones_own_is_permitted_by_its_package(asked, monkeypatch):
    asked.model["_target_"] = "my_project.models.Mine"
    with pytest.raises(UserError, match="MERU_TRUST=<package>"):
        check_targets(asked, source="the command line")
    monkeypatch.setitem(os.environ, "MERU_TRUST", "other,my_project")
    check_targets(asked, source="the command line")
    asked.model["_target_"] = "my_projects_evil_twin.Mine"
    with pytest.raises(UserError, match="not permitted"):
        check_targets(asked, source="the command line")
