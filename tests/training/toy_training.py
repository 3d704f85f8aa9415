"""A model small enough to see through, and a trainer for it."""

import json

import torch
from torch import nn

from meru.models import Output
from meru.training.loggers.base import NoLogger
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

PER_EPOCH, SIZE = 4, 3


class Regression(nn.Module):
    """y = w·x with dropout, so that the state of the random generator matters."""

    def __init__(self, dropout=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.dropout = dropout
        self.layer = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, batch):
        error = (self.scale * self.layer(nn.functional.dropout(batch["image"], self.dropout, self.training))).square()
        return Output(loss=error.mean(), logs={"loss/square": error.mean().detach(), "error": error.detach()[:, 0]})

    def constrain_(self):
        with torch.no_grad():
            self.scale.clamp_(max=1.0)


def batch_number(number):
    generator = torch.Generator().manual_seed(number)
    return {"image": torch.randn(SIZE, 2, generator=generator)}


def make(folder, *, evaluate=None, on_batch=lambda number: None, batch=batch_number, model=None, **settings):
    def batches(start):
        for number in range(start, 1000):
            on_batch(number)
            yield batch(number)

    model = model or Regression()
    return Trainer(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.05),
        batches=batches,
        batches_per_epoch=PER_EPOCH,
        evaluate=evaluate,
        logger=NoLogger(),
        folder=folder,
        device=torch.device("cpu"),
        settings=TrainerSettings(**{"epochs": 3, "log_every": 1, "monitor": "score", **settings}),
    )


def lines(folder):
    """Metrics without the figures that a clock decides."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in read]


def folder(tmp_path, name):
    path = tmp_path / name
    path.mkdir()
    return path


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it and nothing is tidied up."""
