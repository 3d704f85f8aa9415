"""Names of the files in a run folder; every module that reads or writes one takes its name from here.

    asked.yaml          the configuration as requested on the command line
    config.yaml         the resolved configuration; a folder with this file is a run folder
    metrics.jsonl       one line per logged step and one per validation
    diagnosis.jsonl     gradients of each loss term, one line per `trainer.diagnose_every` steps
    last.pt             everything needed to resume: model, optimizer, average, best figure, step, random states
    best.safetensors    weights of the best validation so far
    model.safetensors   the finished model (see `meru.load`)
    test.json           the model's figures; a run with this file is finished
    duration.json       minutes of wall time and of CPU time
    environment.json    the commit, the device and the versions with which the run was last started
    figures/            plots of evaluation.figures, those during training with their step
    attention/          attention maps of caption words (image–text runs)
    clusters.csv        the predicted class of every image (discovery runs)
    tree/               trees of the predicted classes (discovery runs)
    diagnosis/          what scripts/diagnose.py measured
    wandb_id            the run's id in Weights & Biases
    swanlab_id          the run's id in SwanLab
    swanlab/            SwanLab's files
    tensorboard/        TensorBoard's event files
    .lock               names the process that is using the folder
"""

from __future__ import annotations

ASKED = "asked.yaml"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
GRADIENTS = "diagnosis.jsonl"
CHECKPOINT = "last.pt"
BEST = "best.safetensors"
MODEL = "model.safetensors"
FIGURES = "test.json"
DURATION = "duration.json"
ENVIRONMENT = "environment.json"
PLOTS = "figures"
ATTENTION = "attention"
CLUSTERS = "clusters.csv"
TREES = "tree"
DIAGNOSIS = "diagnosis"
WANDB_ID = "wandb_id"
SWANLAB_ID = "swanlab_id"
SWANLAB = "swanlab"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
