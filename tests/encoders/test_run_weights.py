"""`encoder.init=<run folder>`: a model starts from a finished run of another one."""

import logging

import pytest
import torch

from meru.assemble import build
from meru.configuration.saved import save_config
from meru.encoders.run_weights import _require_same_encoder, brings_scales, is_run_folder
from meru.errors import UserError
from meru.tasks.image_text import ImageText
from meru.training.checkpoint import save_weights

TINY = [
    "experiment=birds_meru", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
    "encoder.embedding_dimension=16", "data.load._target_=meru.data.datasets.cub.load_cub", "data.batch_size=4",
    "data.workers=0", "trainer.epochs=1", "evaluation.pointing=false", "logger=none",
]  # fmt: skip
OTHERS = {
    "MERU": ["model=meru"],
    "GAHR": ["model=gahr"],
    "SimGCD": ["model=simgcd", "discovery.num_classes=4"],
}


@pytest.fixture
def said(caplog):
    logging.getLogger("meru").propagate = True
    caplog.set_level(logging.INFO, logger="meru")
    return caplog


@pytest.fixture
def finished(compose, tmp_path):
    """`finished("model=clip")`: the folder of a finished run with random weights, and its model."""

    def make(*overrides, name="source", seed=1):
        torch.manual_seed(seed)
        config = compose(*TINY, *overrides)
        model = build(config).model
        with torch.no_grad():
            model.state_dict()["visual.conv1.0.weight"].mul_(1.5)
            if hasattr(model, "logit_scale"):
                model.logit_scale.fill_(3.5)
        folder = tmp_path / name
        folder.mkdir()
        save_config(folder, config)
        save_weights(folder / "model.safetensors", model.state_dict())
        return folder, model

    return make


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_takes_what_it_shares_with_clip(name, finished, compose, said):
    folder, clip = finished("model=clip")
    torch.manual_seed(2)
    fresh = build(compose(*TINY, *OTHERS[name])).model.state_dict()
    torch.manual_seed(2)
    said.clear()
    model = build(compose(*TINY, *OTHERS[name], f"encoder.init={folder}")).model.state_dict()
    shared = [each for each in clip.state_dict() if each in model]
    assert any(each.startswith("visual.") for each in shared)
    assert all(torch.equal(model[each], clip.state_dict()[each]) for each in shared)
    assert all(torch.equal(model[each], fresh[each]) for each in model if each not in shared)
    (line,) = said.messages
    assert line.startswith(f"encoder.init: {len(shared)} of {len(model)} parameters taken from {folder}; left at their")
    kept, unused = line.split("left at their initial values: ")[1].split("; not used of the run: ")
    if name == "SimGCD":
        assert "classifier" in kept and "textual (" in unused and "logit_scale" in unused
    else:
        assert model["logit_scale"].item() == 3.5 and "visual_alpha" in kept and "curv" in kept and unused == "none"
    assert ("local (" in kept) == (name == "GAHR")


def test_a_discovery_run_gives_its_image_tower(finished, compose, said):
    folder, source = finished("model=simgcd", "discovery.num_classes=4")
    model = build(compose(*TINY, f"encoder.init={folder}")).model
    assert torch.equal(model.visual.conv1[0].weight, source.visual.conv1[0].weight)
    assert "textual (" in said.messages[-1] and "classifier" in said.messages[-1]


def test_modules_of_other_shapes_keep_their_initial_values(finished, compose, said):
    folder, _ = finished("model=simgcd", "discovery.num_classes=4")
    build(compose(*TINY, "model=simgcd", "discovery.num_classes=6", f"encoder.init={folder}"))
    assert "initial values: classifier; not used of the run: classifier" in said.messages[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder.image.name=resnet18"], r"a run with encoder\.image\.name=test_resnet, and this one has resnet18"),
        (["encoder.text.architecture=L2_W16_A2"], r"encoder\.text\.architecture=L1_W16_A2, and this one has L2_W16_A2"),
        (["encoder.embedding_dimension=8"], r"encoder\.embedding_dimension=16, and this one has 8"),
        (["+encoder.image.norm_epsilon=1e-4"], r"encoder\.image\.norm_epsilon=None, and this one has 0\.0001"),
        (["+encoder.image.pixel_std=[0.2,0.5,0.5]"], r"another pixel_std: set encoder\.image\.pixel_std=\[0\.5,0\.5,"),
        (["+encoder.text.context_length=40"], r"encoder\.text\.context_length=None, and this one has 40"),
    ],
)
def test_other_towers_and_tokenizers_are_refused(overrides, message, finished, compose):
    folder, _ = finished("model=clip")
    with pytest.raises(UserError, match=message) as caught:
        build(compose(*TINY, *overrides, f"encoder.init={folder}"))
    assert "\n" not in str(caught.value)


def test_two_spellings_of_one_text_tower_are_the_same(finished, compose):
    folder, source = finished("model=clip", "encoder.text.architecture=L1_W64_A1")
    model = build(compose(*TINY, "encoder.text.architecture=L1_W64", f"encoder.init={folder}")).model
    assert torch.equal(model.textual.token_embed.weight, source.textual.token_embed.weight)


def test_another_activation_is_refused_although_every_weight_fits(compose, tmp_path):
    theirs = compose("encoder=clip_vit_b16", "encoder.image.pretrained=null")
    with pytest.raises(UserError, match=r"pretrained=None, and this one has openai: .* so set .*pretrained=null"):
        _require_same_encoder(compose("encoder=clip_vit_b16"), theirs, tmp_path, text=True, what="encoder.init")
    _require_same_encoder(theirs, theirs, tmp_path, text=True, what="encoder.init")


def test_another_norm_exponent_is_said(finished, compose, said):
    folder, _ = finished("model=meru", "model.norm_exponent=1")
    build(compose(*TINY, "model=meru", "model.norm_exponent=0.3", f"encoder.init={folder}"))
    assert "the run has model.norm_exponent=1 and this one 0.3" in said.messages[-1]


def test_a_tower_that_does_not_fit_although_its_name_does(finished, compose):
    folder, clip = finished("model=clip")
    weights = {**clip.state_dict(), "visual.conv1.0.weight": torch.zeros(1, 2, 3, 3)}
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(UserError, match=r"its visual\.conv1\.0\.weight has shape \(1, 2, 3, 3\).*give the keys of enc"):
        build(compose(*TINY, f"encoder.init={folder}"))
    weights.pop("visual.conv1.0.weight")
    save_weights(folder / "model.safetensors", weights)
    with pytest.raises(UserError, match=r"its visual\.conv1\.0\.weight is missing"):
        build(compose(*TINY, f"encoder.init={folder}"))


def test_an_unfinished_run_says_what_to_do(finished, compose):
    folder, _ = finished("model=clip")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"the run {folder} is not finished .*finish it with resume={folder}"):
        build(compose(*TINY, f"encoder.init={folder}"))


def test_only_runs_that_trained_scales_bring_them(finished, tmp_path):
    for name, overrides, brings in [
        ("a", ["model=clip"], False),
        ("b", ["model=meru"], True),
        ("c", ["model=meru", "model.space=sphere", "loss.entailment.weight=0"], False),
        ("d", ["model=simgcd", "discovery.num_classes=4"], False),
    ]:
        folder, _ = finished(*overrides, name=name)
        assert is_run_folder(folder) and brings_scales(folder) == brings
    assert brings_scales("meru_vit_s.pth") and not brings_scales(None)


@pytest.mark.parametrize("source", ["clip", "meru"])
def test_points_start_at_the_initial_radius_unless_the_run_brings_scales(source, finished, compose, cub_folder):
    """Features of CLIP of norm 10 or more would lie far out by MERU's own initial scales."""
    folder, model = finished(f"model={source}")
    with torch.no_grad():
        for projection in (model.visual_proj, model.textual_proj):
            projection.weight.mul_(100.0)
        if source == "meru":
            model.visual_alpha.fill_(-4.0)
    save_weights(folder / "model.safetensors", model.state_dict())
    words = [f"data.root={cub_folder}", f"encoder.init={folder}", "encoder.initial_radius=1.0", "model=meru"]
    config = compose(*TINY, *words)
    task = ImageText(config, device=torch.device("cpu"))
    pretrained = build(config)
    task.prepare(pretrained, begun=False)
    pretrained.model.eval()
    images = next(iter(task.images_of(task.data.train, pretrained)))["image"]
    with torch.no_grad():
        radius = pretrained.model.radius(pretrained.model.embed_image(images)).mean().item()
    if source == "clip":
        assert radius == pytest.approx(1.0, abs=0.05)
    else:
        assert pretrained.model.visual_alpha.item() == -4.0
