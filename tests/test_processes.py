"""The number of processes does not change a run: 1, 2 and 4 of them have the same batches, steps and losses."""

import json
from pathlib import Path

import pytest
import torch
from process_groups import results_of
from timm.layers import BatchNormAct2d
from torch import nn

from meru import distributed
from meru.discovery_run import train_discovery
from meru.layers.batch_norm import SharedBatchNorm, share_batch_norms
from meru.models import Output
from meru.running import train
from meru.training.loggers import NoLogger
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

CPU = torch.device("cpu")
COMMON = [
    "encoder=small",
    "encoder.image.image_size=32",
    "data.batch_size=8",
    "data.workers=0",
    "trainer.warmup_epochs=0",
    "trainer.log_every=1",
    "trainer.precision=fp32",
    "logger=none",
]


# ------------------------------------------------------------------------------------------------ whole runs
def run_of(rank, config):
    """Images of this process in every step, the losses of all, and what the run exported."""
    seen, step = [], Trainer._on_device

    def recorded(self, batches):
        for batch in step(self, batches):
            seen.append(batch["image_index"].tolist())
            yield batch

    Trainer._on_device = recorded
    task = train_discovery if config.get("task") == "discovery" else train
    try:
        task(config, device=CPU)
    finally:
        Trainer._on_device = step
    lines = [json.loads(line) for line in (Path(config.folder) / "metrics.jsonl").read_text().splitlines()]
    return {
        "images": seen,
        "losses": [line["loss"] for line in lines if "loss" in line],
        "gradients": [line["gradient_norm"] for line in lines if "loss" in line],
        "config": config.folder,
    }


def runs_of(rank, configs):
    return [run_of(rank, config) for config in configs]


@pytest.fixture
def configurations(compose, cub_folder, tmp_path):
    """An image–text run with the losses that look at everything in a batch, and a discovery run, by processes."""

    def make(processes):
        image_text = compose(
            "experiment=birds_meru_patches",
            *COMMON,
            "encoder.text.architecture=L1_W64_A2",
            "encoder.embedding_dimension=16",
            f"data.root={cub_folder}",
            "data.load._target_=meru.data.cub.load_cub",
            "data.validation_fraction=0",
            "loss.word_contrast.weight=0.5",
            "loss.word_contrast.scope=batch",
            "loss.category.weight=0.5",
            "trainer.epochs=4",
            f"folder={tmp_path / f'image_text_{processes}'}",
        )
        discovery = compose(
            "experiment=cub_hypgcd",
            *COMMON,
            "model.projection_width=16",
            "model.projection_dimension=8",
            "discovery.sampler=neighbours",
            "discovery.neighbours=3",
            "loss.hierarchy.neighbours=6",
            f"data.root={cub_folder}",
            "data.old_classes=[002.Red_bird_0,005.Green_bird_1]",
            "optim.learning_rate=0.01",
            "trainer.epochs=4",
            f"folder={tmp_path / f'discovery_{processes}'}",
        )
        return [image_text, discovery]

    return make


def test_one_two_and_four_processes_train_alike(configurations):
    (alone,) = results_of(runs_of, configurations(1), processes=1)
    for processes in (2, 4):
        ranks = results_of(runs_of, configurations(processes), processes=processes)
        for task, expected in enumerate(alone):
            together = [sum(batches, []) for batches in zip(*(rank[task]["images"] for rank in ranks), strict=True)]
            assert len(expected["losses"]) >= 3
            left_over = len(expected["images"][0]) % processes
            whole = [batch[: len(batch) - left_over] for batch in expected["images"]]
            assert together == whole, (task, processes)
            for name in ("losses", "gradients"):
                assert ranks[0][task][name] == pytest.approx(expected[name], rel=2e-4), (task, processes, name)
