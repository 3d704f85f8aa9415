"""LoRA in a run: several processes, accumulation, torch.compile, averages of the weights, every model, and exports."""

import json
from pathlib import Path

import pytest
import torch
from every_term import EVERY_TERM
from process_groups import results_of
from torch import nn

import meru
from meru.assemble import build
from meru.encoders.image import timm_image_encoder
from meru.encoders.text import text_transformer
from meru.encoders.weights import read_weights
from meru.errors import UserError
from meru.export.formats import export
from meru.layers.low_rank import LowRank, LowRankUpdate, adapt
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.meru import MERU
from meru.models.meru_grid import MERUGrid
from meru.models.meru_patches import MERUPatches
from meru.models.uncha import UNCHA
from meru.run_layout import CHECKPOINT, MODEL
from meru.runs.train import train
from meru.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
RUN = [
    "encoder=vit_tiny", "encoder.image.image_size=32", "+encoder.image.arguments.embed_dim=32",
    "encoder.image.arguments.depth=1", "encoder.image.arguments.num_heads=2", "data.batch_size=4", "data.workers=0",
    "trainer.epochs=2", "trainer.warmup_epochs=0", "trainer.log_every=1", "trainer.precision=fp32", "logger=none",
    "encoder.image.lora_rank=4", "encoder.image.lora_norms=true", "+encoder.image.random_weights=true",
]  # fmt: skip
IMAGE_TEXT = [
    "experiment=birds_meru", "encoder.text.architecture=L1_W32_A2", "encoder.text.lora_rank=2",
    "encoder.text.lora_alpha=4", "+encoder.text.random_weights=true", "encoder.embedding_dimension=16",
    "data.load._target_=meru.data.datasets.cub.load_cub", "data.validation_fraction=0", "evaluation.pointing=false",
]  # fmt: skip
DISCOVERY = [
    "experiment=cub_simgcd", "encoder.image.train_last_blocks=null", "model.projection_width=16",
    "model.projection_dimension=8", "data.old_classes=[002.Red_bird_0,005.Green_bird_1]", "trainer.accumulate=1",
]  # fmt: skip


def towers():
    torch.manual_seed(0)
    arguments = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return {
        "image": timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=arguments),
        "text": text_transformer(architecture="L1_W32_A2", context_length=8),
        "embedding_dimension": 16,
    }


def model_with_updates(kind, loss=EVERY_TERM):
    """A model whose updates are not 0."""
    model = kind(**towers(), loss=loss)
    for tower in (model.visual, model.textual):
        adapt(tower, LowRank(rank=4, alpha=8.0), key="lora_rank")
    for module in model.modules():
        if isinstance(module, LowRankUpdate):
            nn.init.normal_(module.up, std=0.1)
    return model.train()


def whole_batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 1000, (6, 8), generator=generator)
    tokens[:, 5] = 49407
    images = torch.randint(0, 256, (2, 6, 3, 32, 32), generator=generator, dtype=torch.uint8)
    whole = torch.ones(6, dtype=torch.bool)
    return {
        "image": images[0], "tokens": tokens, "image_index": torch.arange(6), "epoch": torch.tensor(1.0),
        "class_index": torch.tensor([0, 1, 1, 0, 1, 2]), "part_image": images[1], "part_tokens": tokens.flip(0),
        "has_part": whole, "has_part_text": whole, "query_tokens": tokens[:, None], "query_weight": torch.ones(6, 1),
        "query_parent": torch.full((6, 1), -1),
    }  # fmt: skip


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [CLIP, MERU, HyCoCLIP, UNCHA, MERUPatches, MERUGrid, GAHR])
def test_every_model_trains_every_update(kind):
    model = model_with_updates(kind)
    model(whole_batch()).loss.backward()
    updates = [name for name, _ in model.named_parameters() if name.endswith((".up", ".down"))]
    found = gradients(model)
    assert len(updates) == 2 * (4 + 4)
    assert all(found[name].isfinite().all() and found[name].any() for name in updates)
    assert not any(name.endswith(".original") for name in found)


@pytest.mark.parametrize("precision", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_compiled_model_gives_the_loss_and_gradients_of_eager(precision):
    def run(forward, model):
        with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
            loss = forward(whole_batch()).loss
        loss.backward()
        return loss.detach(), gradients(model)

    contrastive = {"contrastive": {"weight": 1.0, "positives": "pair"}}
    model, other = (model_with_updates(CLIP, contrastive) for _ in range(2))
    loss, expected = run(model, model)
    found, others = run(torch.compile(other, backend="aot_eager"), other)
    torch.testing.assert_close(found, loss)
    assert others.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (others[name] - gradient).norm() <= 2e-2 * gradient.norm() + 1e-7, name


# ------------------------------------------------------------------------------------------------ whole runs
def run_of(rank, configs):
    """Losses and weights of runs."""
    results = []
    for config in configs:
        train(config, device=CPU)
        folder = Path(config.folder)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        figures = [(line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]
        checkpoint = load_checkpoint(folder / CHECKPOINT)
        results.append({"figures": figures, "model": checkpoint["model"], "average": checkpoint["average"]})
    return results


def configurations(compose, data, folder):
    """An image–text run, the same with accumulation, and a discovery run."""
    common = [f"data.root={data}", "trainer.ema_decay=0.5", "optim.learning_rate=0.01"]
    return [
        compose(*words, *RUN, *common, *more, f"folder={folder}_{number}")
        for number, (words, *more) in enumerate(
            [(IMAGE_TEXT,), (IMAGE_TEXT, "trainer.accumulate=3", "trainer.epochs=3"), (DISCOVERY,)]
        )
    ]


@pytest.fixture(scope="module")
def alone(compose, cub_folder, tmp_path_factory):
    """The runs in one process: their configurations, figures and weights."""
    configs = configurations(compose, cub_folder, tmp_path_factory.mktemp("low_rank") / "alone")
    return configs, results_of(run_of, configs, processes=1)[0]


def test_two_processes_train_as_one(alone, compose, cub_folder, tmp_path):
    _, expected = alone
    found, _ = results_of(run_of, configurations(compose, cub_folder, tmp_path / "shared"))
    for one, other in zip(expected, found, strict=True):
        for figures, others in zip(one["figures"], other["figures"], strict=True):
            assert others == pytest.approx(figures, rel=1e-3)
        for kind in ("model", "average"):
            updates = [name for name in one[kind] if name.endswith(".up")]
            assert updates
            for name, value in one[kind].items():
                if not value.is_floating_point():
                    continue
                assert (other[kind][name] - value).norm() <= 1e-3 * value.norm() + 1e-6, (kind, name)


def test_frozen_weights_stay_and_the_average_is_exported_merged(alone):
    configs, results = alone
    for config, result in zip(configs, results, strict=True):
        rank, alpha = config.encoder.image.lora_rank, config.encoder.image.lora_alpha or config.encoder.image.lora_rank
        average = {name.removeprefix("module."): value for name, value in result["average"].items()}
        exported = read_weights(Path(config.folder) / MODEL, what="run")
        checked = 0
        for name, value in result["model"].items():
            if not (name.startswith("visual.") and name.endswith(".original")):
                continue
            assert torch.equal(average[name], value)  # an average of equal values
            place = name.removesuffix(".original")
            up, down = average[f"{place}.0.up"], average[f"{place}.0.down"]
            assert not torch.equal(up, result["model"][f"{place}.0.up"])
            merged = value.double() + alpha / rank * up.double() @ down.double()
            own = exported[place.replace("parametrizations.", "")]
            torch.testing.assert_close(own.double(), merged, atol=1e-6, rtol=1e-6)
            checked += 1
        assert checked == 4


def test_a_run_is_exported_and_starts_others(alone, compose, tmp_path):
    config = alone[0][0]
    loaded = meru.load(config.folder)
    images, tokens = whole_batch()["image"], torch.tensor([[49406, 320, 49407]])
    with torch.no_grad():
        expected = [loaded.model.embed_image(images), loaded.model.embed_text(tokens)]
        for kind in ("hub", "safetensors"):
            export({"run": config.folder, "format": kind, "output": str(tmp_path / kind)})
            model = meru.load(tmp_path / kind).model
            assert torch.equal(model.embed_image(images), expected[0])
            assert torch.equal(model.embed_text(tokens), expected[1])
        plain = ["encoder.image.lora_rank=null", "encoder.image.lora_norms=false", "encoder.text.lora_rank=null"]
        alphas = ["encoder.text.lora_alpha=null"]
        others = ["encoder.image.lora_rank=2"]
        for words in ([*plain, *alphas], others):
            for start in (config.folder, f"{config.folder}/{MODEL}"):
                model = build(compose(*IMAGE_TEXT, *RUN, *words, f"encoder.init={start}")).model.eval()
                torch.testing.assert_close(model.embed_image(images), expected[0])
    with pytest.raises(UserError, match=r"last.pt holds LoRA updates apart from the weights: give .*folder"):
        build(compose(*IMAGE_TEXT, *RUN, *others, f"encoder.init={config.folder}/{CHECKPOINT}"))
