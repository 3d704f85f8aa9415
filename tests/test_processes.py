"""The number of processes does not change a run: 1, 2 and 4 of them have the same batches, steps and losses."""

import json
import os
from itertools import chain
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from process_groups import results_of
from timm.layers import BatchNormAct2d
from torch import nn

from meru import distributed
from meru.layers.batch_norm import SharedBatchNorm, share_batch_norms
from meru.models import Output
from meru.runs.train import train
from meru.training.loggers.base import NoLogger
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
SMALL_TEXT = ["encoder.text.architecture=L1_W16_A2", "encoder.embedding_dimension=16"]
SMALL_HEADS = [
    "model.projection_width=16", "model.projection_dimension=8", "data.old_classes=[002.Red_bird_0,005.Green_bird_1]",
]  # fmt: skip


# ------------------------------------------------------------------------------------------------ whole runs
def run_of(rank, config):
    """Images of this process in every step, the losses of all, and what the run exported."""
    seen, step = [], Trainer._on_device

    def recorded(self, batches):
        for batch in step(self, batches):
            seen.append(batch["image_index"].tolist())
            yield batch

    Trainer._on_device = recorded
    try:
        train(config, device=CPU)
    finally:
        Trainer._on_device = step
    lines = [json.loads(line) for line in (Path(config.folder) / "metrics.jsonl").read_text().splitlines()]
    return {
        "images": seen,
        "losses": [line["loss"] for line in lines if "loss" in line],
        "gradients": [line["gradient_norm"] for line in lines if "loss" in line],
    }


def runs_of(rank, configs):
    return [run_of(rank, config) for config in configs]


@pytest.fixture
def configurations(compose, cub_folder, tmp_path):
    """An image–text run with the losses that look at everything in a batch, and a discovery run, by processes."""
    image_text = compose(
        "experiment=birds_meru_patches",
        *COMMON,
        *SMALL_TEXT,
        f"data.root={cub_folder}",
        "data.load._target_=meru.data.datasets.cub.load_cub",
        "data.validation_fraction=0",
        "loss.word_contrast.weight=0.5",
        "loss.word_contrast.scope=batch",
        "loss.category.weight=0.5",
        "loss.hierarchy.weight=0.5",
        "loss.hierarchy.neighbours=6",
        "trainer.epochs=3",
        "evaluation.pointing=false",
        "evaluation.attention_pictures=0",
    )
    discovery = compose(
        "experiment=cub_hypgcd",
        *COMMON,
        *SMALL_HEADS,
        "discovery.sampler=weighted",
        "loss.hierarchy.neighbours=6",
        f"data.root={cub_folder}",
        "optim.learning_rate=0.01",
        "trainer.clip_gradient_norm=1.0",  # small steps, that rounding does not grow in
        "trainer.epochs=3",
    )

    def make(processes):
        runs = {"image_text": image_text, "discovery": discovery}
        folders = {name: {"folder": str(tmp_path / f"{name}_{processes}")} for name in runs}
        return [OmegaConf.merge(config, folders[name]) for name, config in runs.items()]

    return make


def test_one_two_and_four_processes_train_alike(configurations):
    (alone,) = results_of(runs_of, configurations(1), processes=1)
    for processes in (2, 4):
        ranks = results_of(runs_of, configurations(processes), processes=processes)
        for task, expected in enumerate(alone):
            shares = zip(*(rank[task]["images"] for rank in ranks), strict=True)
            assert [list(chain(*parts)) for parts in shares] == expected["images"], (task, processes)
            assert len(expected["losses"]) == 3
            for name in ("losses", "gradients"):
                assert ranks[0][task][name] == pytest.approx(expected[name], rel=1e-3), (task, processes, name)


# ------------------------------------------------------------------------------------------------ batch norm
def norms():
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(4).requires_grad_(False).eval()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), frozen, BatchNormAct2d(4), nn.BatchNorm2d(4, momentum=None)
    )


def through_norms(rank, world):
    images = 5 + 3 * torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    share = slice(rank * 8 // world, (rank + 1) * 8 // world)
    model = norms()
    names = list(model.state_dict())
    if world > 1:
        share_batch_norms(model)
        assert [type(layer) is SharedBatchNorm for layer in model] == [False, True, False, True, True]
    assert list(model.state_dict()) == names
    forward = distributed.parallel(model, CPU) if world > 1 else model
    for _ in range(2):
        values = forward(images[share])
    model.zero_grad()
    ((values * weights[share]).square().sum() * world).backward()  # DDP averages over the processes
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"values": values.detach(), "gradients": gradients, "state": model.state_dict()}


@pytest.mark.parametrize("processes", [2, 4])
def test_trained_batch_norms_take_their_statistics_from_all_processes(processes):
    expected = through_norms(0, 1)
    ranks = results_of(through_norms, processes, processes=processes)
    torch.testing.assert_close(torch.cat([rank["values"] for rank in ranks]), expected["values"], atol=1e-5, rtol=1e-4)
    for rank in ranks:
        torch.testing.assert_close(rank["gradients"], expected["gradients"], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(rank["state"], expected["state"], atol=1e-5, rtol=1e-5)
    norms().load_state_dict(ranks[0]["state"])


# ------------------------------------------------------------------------------------------------ untouched parameters
class Partly(nn.Module):
    """Trains `always`, `sometimes` in the second process only, in every fourth batch, and never `never`."""

    def __init__(self):
        super().__init__()
        for name in ("always", "sometimes", "never"):
            self.register_parameter(name, nn.Parameter(torch.ones(())))

    def forward(self, batch):
        error = (self.always * batch["image"]).square().mean()
        if batch["touch"]:
            error = error + self.sometimes
        return Output(loss=error)

    def constrain_(self):
        """Nothing."""


def train_partly(rank, folder, accumulate):
    model = Partly()
    Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1),
        batches=lambda start: [
            {"image": torch.ones(2), "touch": torch.tensor(rank == 1 and step % 4 == 3)} for step in range(8)
        ],
        batches_per_epoch=8,
        evaluate=None,
        logger=NoLogger(),
        folder=Path(folder),
        device=CPU,
        settings=TrainerSettings(epochs=1, accumulate=accumulate, ema_decay=0.9, log_every=1, clip_gradient_norm=None),
    ).run()
    return {name: parameter.item() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_may_leave_parameters_untouched(accumulate, tmp_path):
    first, second = results_of(train_partly, str(tmp_path), accumulate)
    assert first == second
    assert first["never"] == 1  # no gradient, so not decayed either
    assert first["always"] < 1 and first["sometimes"] < 1


def forward_once(rank, folder):
    with open(f"{folder}/stderr_{rank}", "w") as stderr:
        os.dup2(stderr.fileno(), 2)  # DDP's warnings come from C++
    parallel = distributed.parallel(nn.Linear(2, 1), CPU)  # must outlive the backward pass
    parallel(torch.ones(1, 2)).sum().backward()


def test_a_model_that_uses_all_its_parameters_causes_no_warning(tmp_path):
    results_of(forward_once, str(tmp_path))
    assert not any("unused" in (tmp_path / f"stderr_{rank}").read_text() for rank in range(2))


def steps_of(rank, configs):
    for config in configs:
        train(config, device=CPU)


def test_recipes_with_terms_switched_off_train(compose, cub_folder, tmp_path):
    no_scale = ["loss.contrastive.weight=0"]
    no_projection = [f"loss.{name}.weight=0" for name in ("supervised_contrastive", "view_contrastive")]
    no_classifier = [f"loss.{name}.weight=0" for name in ("supervised_classification", "self_distillation")]
    proxies = [
        *no_projection,
        "loss.hierarchy.ancestors=proxies",
        "loss.category.weight=0",
        "loss.hierarchy.neighbours=2",
    ]
    configs = []
    for experiment, overrides in (
        ("birds_meru", no_scale),
        ("cub_simgcd", no_projection),
        ("cub_simgcd", no_classifier),
        ("cub_hypgcd", proxies),  # neighbourhoods of two: a point and another, so no anchors
    ):
        discovering = experiment.startswith("cub")
        towers = SMALL_HEADS if discovering else [*SMALL_TEXT, "data.load._target_=meru.data.datasets.cub.load_cub"]
        folder = tmp_path / str(len(configs))
        configs.append(
            compose(
                f"experiment={experiment}", *COMMON, *towers, *overrides, f"data.root={cub_folder}",
                "trainer.epochs=2", f"folder={folder}",
            )
        )  # fmt: skip
    results_of(steps_of, configs)
    for config in configs:
        assert (Path(config.folder) / "model.safetensors").exists()
