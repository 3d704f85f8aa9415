"""Blocks divided among processes: losses, weights and figures of DDP, and checkpoints that any number goes on with."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from process_groups import results_of
from safetensors.torch import load_file
from test_processes import COMMON, SMALL_TEXT

from meru.errors import UserError
from meru.runs.train import train
from meru.training.trainer import Trainer

CPU = torch.device("cpu")


def divided_parts(rank, config, stop_at):
    """Train; returns the number of elements that this process held of the model's parameters."""
    held, step = {}, Trainer._step

    def counted(self, *arguments):
        result = step(self, *arguments)
        if self.sharded:
            held["whole"] = sum(each.numel() for each in self.model.parameters())
            held["own"] = sum(self_local(each).numel() for each in self.model.parameters())
        self.stop_requested = self.step == stop_at
        return result

    Trainer._step = counted
    try:
        train(config, device=CPU)
    finally:
        Trainer._step = step
    return held


def self_local(parameter):
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


@pytest.fixture
def configuration(compose, cub_folder, tmp_path):
    base = compose(
        "experiment=birds_meru", *COMMON, *SMALL_TEXT, f"data.root={cub_folder}", "data.batch_size=6",
        "data.load._target_=meru.data.datasets.cub.load_cub", "data.validation_fraction=0.25", "trainer.epochs=4",
        "trainer.accumulate=1", "optim.learning_rate=0.001",
    )  # fmt: skip

    def make(name, **trainer):
        return OmegaConf.merge(base, {"folder": str(tmp_path / name), "trainer": trainer})

    return make


def losses(config):
    lines = [json.loads(line) for line in (Path(config.folder) / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if "loss" in line for name in ("loss", "gradient_norm")]


def test_divided_blocks_train_as_whole_ones(configuration):
    ddp, fsdp = configuration("ddp"), configuration("fsdp", parallel="fsdp")
    results_of(divided_parts, ddp, None)
    for held in results_of(divided_parts, fsdp, None):
        assert 0 < held["own"] < held["whole"]
    assert losses(fsdp) == pytest.approx(losses(ddp), rel=1e-4)
    of_ddp, of_fsdp = (load_file(Path(config.folder) / "model.safetensors") for config in (ddp, fsdp))
    torch.testing.assert_close(of_fsdp, of_ddp, rtol=1e-3, atol=1e-4)
    figures = [json.loads((Path(config.folder) / "test.json").read_text()) for config in (ddp, fsdp)]
    assert figures[0].keys() == figures[1].keys()


@pytest.mark.parametrize(("processes", "parallel"), [(3, "fsdp"), (1, "ddp")])
def test_any_number_of_processes_goes_on_with_the_checkpoint(processes, parallel, configuration):
    straight, broken = configuration("straight", parallel="fsdp"), configuration("broken", parallel="fsdp")
    results_of(divided_parts, straight, None)
    results_of(divided_parts, broken, 3)
    assert not (Path(broken.folder) / "test.json").exists()
    resumed = OmegaConf.merge(broken, {"resume": broken.folder, "trainer": {"parallel": parallel}})
    results_of(divided_parts, resumed, None, processes=processes)
    assert (Path(broken.folder) / "test.json").exists()
    assert losses(broken) == pytest.approx(losses(straight), rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ema_decay": 0.9}, "ema_decay=0.9"), ({"diagnose_every": 2}, "diagnose_every=2"), ({"compile": True}, "c")],
)
def test_what_needs_whole_blocks_is_refused_before_a_folder_is_made(changes, message, configuration):
    config = configuration("refused", parallel="fsdp", **changes)
    with pytest.raises(UserError, match=f"trainer.{message}.*trainer.parallel=ddp"):
        train(config, device=CPU)
    assert not Path(config.folder).exists()
