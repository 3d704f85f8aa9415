"""LoRA: towers that start as they were, train little, and leave weights under the published names."""

import copy
import json

import open_clip
import pytest
import torch
from torch import nn

import meru
from meru.assemble import build, without_pretrained_weights
from meru.configuration.check import check
from meru.configuration.saved import read_config
from meru.encoders.image import encode_image, timm_image_encoder
from meru.encoders.text import TextTransformer
from meru.encoders.weights import read_weights
from meru.errors import UserError
from meru.layers.low_rank import LowRank, adapt, merged_state
from meru.run_layout import MODEL
from meru.runs import train as running
from meru.runs.folder import release, resumed_config
from meru.training.optimizer import parameter_groups
from meru.training.trainer import Trainer

CPU = torch.device("cpu")
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2}
GIVEN = ["+encoder.image.random_weights=true", "+encoder.text.random_weights=true"]  # as if weights followed
TINY = [
    "experiment=birds_meru", "encoder=vit_tiny", "encoder.image.image_size=[32,48]",
    "+encoder.image.arguments.embed_dim=32", "encoder.image.arguments.depth=2", "encoder.image.arguments.num_heads=2",
    "encoder.text.architecture=L2_W32_A2",
    "encoder.embedding_dimension=16", "data.load._target_=meru.data.datasets.cub.load_cub", "data.batch_size=4",
    "data.workers=0", "trainer.epochs=2", "evaluation.pointing=false", "logger=none",
]  # fmt: skip
UPDATED = ["encoder.image.lora_rank=4", "encoder.text.lora_rank=2", "encoder.text.lora_alpha=4"]
TOKENS = torch.tensor([[49406, 320, 736, 49407], [49406, 1074, 49407, 0]])


def timm_tower():
    network = timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=VIT).network
    return network, lambda: encode_image(network, torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))[0]


def clip_tower():
    vision = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    network = open_clip.CLIP(16, vision, text).visual
    network.proj, network.output_tokens = None, True
    return network, lambda: encode_image(network, torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))[0]


def text_tower():
    network = TextTransformer(architecture="L2_W32_A2")
    return network, lambda: network.forward_tokens(TOKENS)[0] + network(TOKENS)


def nudge(module):
    """Give every update a B."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(generator=generator)


@pytest.mark.parametrize("make", [timm_tower, clip_tower, text_tower])
@pytest.mark.parametrize("training", [False, True])
def test_a_tower_starts_as_it_was_and_merges_to_what_it_became(make, training):
    torch.manual_seed(0)
    network, run = make()
    network.train(training)
    before, names = run(), list(network.state_dict())
    frozen = copy.deepcopy(network.state_dict())
    assert adapt(network, LowRank(rank=4, alpha=8.0), key="encoder.image.lora_rank") == 2 * 4
    assert torch.equal(run(), before)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in merged_state(network).items())
    nudge(network)
    after = run()
    assert not torch.allclose(after, before, atol=1e-3)
    run().square().sum().backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 4 and all(name.endswith((".up", ".down")) for name in trained)
    assert all((parameter.grad is not None) == (name in trained) for name, parameter in network.named_parameters())
    merged, (fresh, run_fresh) = merged_state(network), make()
    assert sorted(merged) == sorted(names)
    fresh.train(training).load_state_dict(merged)
    torch.testing.assert_close(run_fresh(), after, atol=1e-5, rtol=1e-5)


def test_the_update_is_scaled_by_alpha_over_the_rank():
    layer = nn.ModuleDict({"resblocks": nn.ModuleList([nn.Linear(6, 5)])})
    layer.resblocks = layer["resblocks"]
    weight = layer.resblocks[0].weight.detach().clone()
    adapt(layer, LowRank(rank=2, alpha=3.0), key="encoder.text.lora_rank")
    nudge(layer)
    update = layer.resblocks[0].parametrizations.weight[0]
    torch.testing.assert_close(layer.resblocks[0].weight, weight + 1.5 * update.up @ update.down)


def test_layer_norms_are_trained_on_request_alone():
    for norms in (False, True):
        network, _ = timm_tower()
        adapt(network, LowRank(rank=2, alpha=2.0, norms=norms), key="encoder.image.lora_rank")
        assert {p.requires_grad for n, p in network.named_parameters() if "norm" in n} == {norms}
        assert not network.pos_embed.requires_grad and not network.patch_embed.proj.weight.requires_grad


def test_only_updates_projections_and_scalars_are_in_the_optimizer(compose):
    model = build(compose(*TINY, *UPDATED, *GIVEN)).model
    groups = parameter_groups(model, learning_rate=1.0, weight_decay=0.1)
    inside = {id(each) for group in groups for each in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in inside}
    own = {name for name in names if not name.endswith((".up", ".down"))}
    assert own == {"logit_scale", "curv", "visual_alpha", "textual_alpha", "visual_proj.weight", "textual_proj.weight"}
    assert len(names - own) == 2 * 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory, compose, cub_folder):
    """Two run folders of the same training, the second one stopped after two steps and resumed."""
    folders = {name: tmp_path_factory.mktemp("low_rank") / name for name in ("whole", "halved")}

    class Stopping(Trainer):
        def _step(self, *arguments):
            self.stop_requested = self.step == 1
            return super()._step(*arguments)

    for name, folder in folders.items():
        words = [
            *TINY, *UPDATED, *GIVEN, f"data.root={cub_folder}", f"folder={folder}", "trainer.ema_decay=0.5",
            "data.batch_size=2", "trainer.accumulate=2",
        ]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            if name == "halved":
                patch.setattr(running, "Trainer", Stopping)
            running.train(compose(*words, resolve=False), device=CPU)
        release(folder)
    words = ["experiment=birds_meru", f"resume={folder}"]
    assert not (folder / MODEL).exists()
    running.train(resumed_config(compose(*words, resolve=False), words), device=CPU)
    release(folder)
    return folders


def test_a_resumed_run_ends_with_the_same_bits(runs):
    one, other = (read_weights(folder / MODEL, what="run") for folder in runs.values())
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert len({json.dumps(json.loads((folder / "test.json").read_text())) for folder in runs.values()}) == 1


def test_the_finished_model_has_published_names_and_its_own_figures(runs, compose, cub_folder):
    folder = runs["whole"]
    config = read_config(folder)
    plain = build(without_pretrained_weights(config)).model
    weights = read_weights(folder / MODEL, what="run")
    assert weights.keys() == plain.state_dict().keys() and not any("parametrizations" in name for name in weights)
    loaded = meru.load(folder)
    adapted = build(without_pretrained_weights(config, low_rank=True)).model
    best = read_weights(folder / "best.safetensors", what="run")
    assert all(tensor.any() for name, tensor in best.items() if name.endswith(".up"))
    adapted.load_state_dict(best)
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded.model.embed_image(images), adapted.eval().embed_image(images))
        assert torch.equal(loaded.model.embed_text(TOKENS), adapted.embed_text(TOKENS))
    again = compose(*TINY, *UPDATED, f"encoder.init={folder}", f"data.root={cub_folder}")
    next_model = build(again).model  # updates on top of the merged weights
    with torch.no_grad():
        torch.testing.assert_close(next_model.eval().embed_image(images), loaded.model.embed_image(images))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoder.image.lora_rank=4", "encoder.image.train_last_blocks=1"], "train_last_blocks=1 trains some of them"),
        (["encoder.image.lora_rank=4", "data.cached_views=2"], "no frozen output to cache: set data.cached_views=0"),
        (["encoder.image.lora_alpha=4"], "do nothing without a rank"),
        (["encoder.text.lora_norms=true", "encoder.text.lora_rank=0"], "do nothing without a rank"),
        (["encoder.text.lora_rank=-1"], "give a whole number from 0"),
        (["encoder.image.lora_rank=4"], "the image tower would keep random weights"),
        (["encoder.text.lora_rank=4"], "the text tower would keep random weights"),
        (["encoder.image.lora_rank=32", *GIVEN], "this tower is 32 wide; give a rank below that"),
    ],
)
def test_contradictions_are_refused_in_one_line(words, message, compose):
    with pytest.raises(UserError, match=message) as caught:
        config = compose(*TINY, *words)
        check(config, command="train")
        build(config)
    assert "\n" not in str(caught.value)


def test_convolutional_towers_are_refused():
    network = timm_image_encoder(name="test_resnet", image_size=32).network
    with pytest.raises(UserError, match=r"lora_rank=4: ResNet is no plain transformer .*train_last_blocks instead$"):
        adapt(network, LowRank(rank=4, alpha=4.0), key="encoder.image.lora_rank")
    assert all(parameter.requires_grad for parameter in network.parameters())
