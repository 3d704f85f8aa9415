"""Declares the keys of the sections `trainer`, `optim` and `logger`; see `meru.configuration.declarations`."""

from __future__ import annotations

from meru.configuration.key import Key, fixed
from meru.configuration.kinds import Choice, Either, Flag, ListOf, Number, Plain, Section, Text, Whole
from meru.configuration.ranges import AT_LEAST_0, SHARE, TARGET, TEXTS

TRAINER = {
    "epochs": Key(Whole(1, 100_000), "epochs", "passes over the training images"),
    "accumulate": fixed(Whole(1, 10_000), "batches"),
    "warmup_epochs": Key(Number(0, 100_000), "epochs", "linear growth of the learning rate from 0; may be fractional"),
    "final_learning_rate": Key(SHARE, "share of the highest", "learning rate at the end"),
    "rate_changes": Key(Choice(("step", "epoch"))),
    "clip_gradient_norm": Key(AT_LEAST_0, meaning="upper bound on the gradient's norm; null: none", null=True),
    "precision": Key(Choice(("auto", "bf16", "fp32"))),
    "tf32": Key(Flag()),
    "ema_decay": Key(Number(0, 1, below=True)),
    "compile": Key(Either((Flag(), Choice(("towers", "graphs"))))),
    "micro_batch_size": Key(Whole(1, 10**6), "samples", null=True),
    "parallel": Key(Choice(("ddp", "fsdp"))),
    "evaluate_every": Key(Whole(1, 100_000), "epochs", "epochs between validations"),
    "monitor": Key(Text("a figure of the validation split"), null=True),
    "log_every": Key(Whole(1, 10**9), "steps", "steps between logged lines"),
    "checkpoint_every": Key(Whole(0, 10**9), "steps"),
    "figures_every": Key(Whole(0, 10**9), "validations"),
    "diagnose_every": Key(Whole(0, 10**9), "steps"),
}

OPTIM = {
    "optimizer._target_": fixed(TARGET, meaning="a class of torch.optim"),
    "optimizer._partial_": fixed(Flag(), meaning="true: the program adds the parameters later"),
    "optimizer.betas": Key(
        ListOf(Number(0, 1, below=True), "[0.9,0.98]", least=2, most=2), meaning="decay of Adam's averages"
    ),
    "optimizer.eps": Key(Number(0, 1), meaning="added to Adam's denominator"),
    "optimizer.momentum": Key(Number(0, 1, below=True), meaning="of SGD and RMSprop"),
    "optimizer.dampening": Key(SHARE, meaning="of SGD's momentum"),
    "optimizer.nesterov": Key(Flag(), meaning="Nesterov's momentum"),
    "optimizer.alpha": Key(SHARE, meaning="of RMSprop and ASGD"),
    "optimizer.rho": Key(SHARE, meaning="of Adadelta"),
    "optimizer.fused": Key(Flag(), meaning="one kernel for all parameters", null=True),
    "optimizer.foreach": Key(Flag(), meaning="all parameters in one call", null=True),
    "optimizer.amsgrad": Key(Flag(), meaning="the AMSGrad variant of Adam"),
    "optimizer.maximize": Key(Choice(("false",)), meaning="the loss can only be minimised"),
    "optimizer.*": Key(Plain(), meaning="any other argument of the class", null=True),
    "learning_rate": Key(Number(0, 1000), meaning="the highest"),
    "batch_of_rate": Key(Number(0, 1e9, above=True), "images", null=True),
    "weight_decay": Key(Number(0, 1000)),
    "multipliers": Key(Section(), null=True),
    "multipliers.*": Key(AT_LEAST_0, meaning="factor on the learning rate of that module or parameter"),
}

LOGGER = {
    "_target_": Key(TARGET, meaning="the logger used besides metrics.jsonl"),
    "also": Key(
        ListOf(Choice(("wandb", "swanlab", "tensorboard")), "[tensorboard]", different=True),
        meaning="other loggers for the same figures",
    ),
    "project": Key(Text(), meaning="the project in Weights & Biases or SwanLab", null=True),
    "entity": Key(Text(), meaning="the user or team in Weights & Biases", null=True),
    "workspace": Key(Text(), meaning="the user or organisation in SwanLab", null=True),
    "mode": Key(Choice(("auto", "online", "offline", "disabled"))),
    "tags": Key(TEXTS, meaning="of the run in Weights & Biases or SwanLab", null=True),
    "group": Key(Text(), meaning="of the run in Weights & Biases or SwanLab", null=True),
}
