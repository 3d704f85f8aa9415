"""Names of the files in a run folder; every module that reads or writes one takes its name from here.

    asked.yaml          the run's configuration as it was asked for
    config.yaml         what it became, resolved; a folder with it is a run folder
    metrics.jsonl       one line a logged step and one a validation
    last.pt             everything needed to go on: model, optimizer, average, best figure, step, random states
    best.safetensors    weights of the best validation so far
    model.safetensors   the finished model (see `meru.load`)
    test.json           its figures; a run with it is finished
    attention/          pictures of where the words of captions look (image–text runs)
    tree/               trees of the predicted classes (discovery runs)
    wandb_id            the run's id in Weights & Biases
    .lock               names the process that is at work in the folder
"""

from __future__ import annotations

ASKED = "asked.yaml"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINT = "last.pt"
BEST = "best.safetensors"
MODEL = "model.safetensors"
FIGURES = "test.json"
ATTENTION = "attention"
TREES = "tree"
WANDB_ID = "wandb_id"
LOCK = ".lock"
