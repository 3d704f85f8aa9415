"""A training step of every model on the same towers and batch, as a Markdown table: the work of `benchmark.py step`."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict

import hydra
import torch
from benchmark_geometry import markdown, synchronize
from hydra.utils import instantiate
from omegaconf import OmegaConf

from meru.command_line import PROJECT
from meru.pretrained import build, is_discovery, without_pretrained_weights
from meru.training.optimizer import build_optimizer

MODELS = {
    "clip": ["model=clip"],
    "meru": ["model=meru"],
    "meru_patches, tokens": ["model=meru_patches"],
    "meru_patches, crops": ["model=meru_patches", "patches.mode=crops"],
    "meru_patches, grid": ["model=meru_patches", "patches.mode=grid"],
    "gahr": ["model=gahr"],
    "towers alone": ["model=clip"],  # no more than the features of images and captions: the rest is the loss
}
# The same for category discovery, as a multiple of SimGCD's.
DISCOVERY = {
    "simgcd": ["model=simgcd", "optim=sgd"],
    "simgcd + HCL": ["model=hypgcd", "optim=sgd", "loss.hierarchy.weight=0"],
    "simgcd + LHL": ["model=hypgcd", "optim=sgd", "loss.category.weight=0"],
    "hypgcd": ["model=hypgcd", "optim=sgd"],
}
WORDS = ("a", "bird", "with", "black", "white", "brown", "long", "beak", "wings", "tail", "belly", "and", "is")


def step_table(encoder: list[str], batch_size: int, repeats: int, device: str, precision: str, task: str) -> str:
    """Seconds of a step (forward, backward, optimizer) and its ratio to the first's, the models taking turns.

    The first is MERU, or SimGCD where `task` is `discovery` and not `image-text`.
    """
    models, first = (DISCOVERY, "simgcd") if task == "discovery" else (MODELS, "meru")
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)
    steps = {
        name: training_step(overrides + encoder, batch_size, device, precision, towers_alone=name == "towers alone")
        for name, overrides in models.items()
    }
    times = defaultdict(list)
    for _ in range(repeats + 1):  # the first round warms up
        for name in random.sample(sorted(steps), len(steps)):
            synchronize(device)
            start = time.perf_counter()
            steps[name]()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    rows = []
    for name in models:
        rounds = list(zip(times[name], times[first], strict=True))[1:]
        ratio = statistics.median(own / base for own, base in rounds)
        rows.append([name, f"{1000 * statistics.median(own for own, _ in rounds):.0f} ms", f"{ratio:.2f}×"])
    kind = {
        "discovery": "two views of every image, half of them labelled",
        "image-text": "captions of 8 to 24 words; crops and grid pass one and four more pictures of every image "
        "through the image tower",
    }
    note = (
        f"{' '.join(encoder)}, batch {batch_size}, {precision} towers, {kind[task]}; median of {repeats} rounds in "
        "random order."
    )
    return note + "\n\n" + markdown(["model", "step", f"over {first}"], rows)


def training_step(overrides: list[str], batch_size: int, device: str, precision: str, *, towers_alone: bool):
    """A function that takes one step, on a batch that every model gets alike."""
    with hydra.initialize_config_dir(str(PROJECT / "configs"), version_base="1.3"):
        config = hydra.compose("train", ["name=benchmark", *overrides])
    if is_discovery(config):
        config.discovery.num_classes = 200  # as many as CUB has
    torch.manual_seed(0)
    model, tokenizer, _ = build(without_pretrained_weights(config))  # weights change no time
    model = model.to(device).train()
    optimizer = build_optimizer(model, **instantiate(config.optim, _convert_="all"))
    size = config.encoder.image.get("image_size", 224)
    pictures = torch.randint(0, 256, (2, batch_size, 3, size, size), dtype=torch.uint8)
    if is_discovery(config):
        batch = {
            "image": pictures.transpose(0, 1),
            "label": torch.arange(batch_size) % 100,
            "labelled": torch.arange(batch_size) % 2 == 0,
            "epoch": torch.tensor(10.0),
        }
    else:
        batch = pairs(pictures, tokenizer)
    batch = {name: value.to(device) for name, value in batch.items()}

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            if towers_alone:
                features = model.image_features(batch["image"]), model.text_features(batch["tokens"])
                loss = sum(each.square().mean() for each in features)
            else:
                loss = model(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.constrain_()

    return step


def pairs(pictures: torch.Tensor, tokenizer) -> dict[str, torch.Tensor]:
    """A batch of images, captions and parts, whatever an image–text model may ask for."""
    batch_size = pictures.shape[1]
    chance = random.Random(0)
    captions = [" ".join(chance.choices(WORDS, k=chance.randint(8, 24))) for _ in range(batch_size)]
    return {
        "image": pictures[0],
        "tokens": tokenizer.batch(captions),
        "part_image": pictures[1],
        "part_tokens": tokenizer.batch(["long black beak"] * batch_size),
        "has_part": torch.ones(batch_size, dtype=torch.bool),
        "has_part_text": torch.ones(batch_size, dtype=torch.bool),
        "image_index": torch.arange(batch_size),
        "class_index": torch.arange(batch_size) // 2,
    }
