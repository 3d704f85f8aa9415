"""Runs with the caption hierarchy: queries reach the model, and an interrupted run goes on with the same bits."""

import json
import signal
from pathlib import Path

import pytest
import torch

from meru.assemble import build
from meru.data.sampling import BatchPlan
from meru.runs.folder import resumed_config
from meru.runs.train import train
from meru.tasks import image_text
from meru.tasks.image_text import ImageText

CPU = torch.device("cpu")
SMALL = [
    "experiment=birds_meru_patches", "loss.caption_hierarchy.weight=0.2", "encoder.image.image_size=32",
    "encoder.text.architecture=L1_W16_A2", "encoder.embedding_dimension=32", "data.batch_size=4", "data.workers=0",
    "trainer.epochs=2", "trainer.evaluate_every=2", "evaluation.attention_pictures=0", "logger=none",
]  # fmt: skip


def test_a_step_with_drawn_birds(compose, tmp_path):
    config = compose(*SMALL, f"data.root={tmp_path}", "+data.load.images_per_species=2")
    task = ImageText(config, device=CPU)
    pretrained = build(config)
    plan = BatchPlan.of(config.data, images=len(task.data.train), world_size=1, accumulate=1)
    (batch, *_) = task.batches(pretrained, plan, plan.batches_per_epoch * 2 - 1)
    assert batch["query_tokens"].shape[:2] == batch["query_weight"].shape == batch["query_parent"].shape == (4, 5)
    output = pretrained.model(batch)
    output.loss.backward()
    assert output.loss.isfinite() and output.logs["queries_per_caption"] > 1
    pooling = pretrained.model.local.query_pooling
    assert all(p.grad.isfinite().all() and p.grad.any() for p in (pooling.query.weight, pooling.mlp[0].weight))


@pytest.mark.parametrize("recipe", ["birds_meru_patches", "birds_clip"])
def test_other_runs_have_no_queries(compose, cub_folder, recipe):
    load = "data.load._target_=meru.data.datasets.cub.load_cub"
    config = compose(f"experiment={recipe}", f"data.root={cub_folder}", load)
    assert ImageText(config, device=CPU).queries(build(config)) is None


def test_an_interrupted_run_goes_on_exactly(compose, cub_folder, tmp_path, monkeypatch):
    words = [*SMALL, f"data.root={cub_folder}", "data.load._target_=meru.data.datasets.cub.load_cub"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    train(compose(*words, f"folder={straight}", resolve=False), device=CPU)
    calls, entries = [], image_text.query_entries

    def interrupting(caption, **options):
        calls.append(caption)
        if len(calls) == 10:  # in the third of six batches
            signal.raise_signal(signal.SIGTERM)
        return entries(caption, **options)

    with monkeypatch.context() as patch:
        patch.setattr(image_text, "query_entries", interrupting)
        assert train(compose(*words, f"folder={stopped}", resolve=False), device=CPU) is None
    assert torch.load(stopped / "last.pt", weights_only=True)["step"] == 3
    words = ["experiment=birds_meru_patches", f"resume={stopped}"]
    train(resumed_config(compose(*words, resolve=False), words), device=CPU)
    first, second = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (straight, stopped))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert any(name.startswith("local.query_pooling.") for name in first)
    assert figures(straight) == figures(stopped)


def figures(folder: Path) -> dict:
    return json.loads((folder / "test.json").read_text())
