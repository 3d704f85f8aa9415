"""A training step of every model on the same towers and batch, as a Markdown table."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from meru.assemble import build, is_discovery, without_pretrained_weights
from meru.benchmarks.measuring import synchronize
from meru.configuration.composing import compose
from meru.encoders.sizes import sides
from meru.errors import UserError
from meru.reports.tables import markdown_table
from meru.training.arriving import arriving
from meru.training.optimizer import build_optimizer
from meru.training.precision import fastest_attention
from meru.training.wrapping import compile_towers

MODELS = {
    "clip": ["model=clip"],
    "meru": ["model=meru"],
    "hycoclip": ["model=hycoclip"],
    "meru_grid": ["model=meru_grid"],
    "meru_patches": ["model=meru_patches"],
    "gahr": ["model=gahr"],
    "towers alone": ["model=clip"],  # only the features of images and captions, without a loss
}
# The same for category discovery, as a multiple of SimGCD's.
DISCOVERY = {
    "simgcd": ["model=simgcd", "optim=sgd"],
    "simgcd + HCL": ["model=hypgcd", "optim=sgd", "loss.hierarchy.weight=0"],
    "simgcd + LHL": ["model=hypgcd", "optim=sgd", "loss.category.weight=0"],
    "hypgcd": ["model=hypgcd", "optim=sgd"],
}
PRODUCT = "matrix product"
COMPILED = ("towers", "graphs", "model")  # as `trainer.compile`; model: true
WORDS = ("a", "bird", "with", "black", "white", "brown", "long", "beak", "wings", "tail", "belly", "and", "is")


def report(
    encoder: list[str],
    batch: int,
    repeats: int,
    device: str,
    precision: str,
    task: str,
    model: list[str] | None,
    open_clip: str | None,
) -> str:
    """Table of step times (forward, backward, optimizer) and their ratios to a reference; the models take turns.

    The reference is MERU, or SimGCD if `task` is `discovery` instead of `image-text`. The rate of large matrix products
    in the towers' precision is measured in the same rounds; on a GPU, the table also has the peak memory.

    Args:
        encoder: Overrides.
        model: Names of models; None for all models of the task.
        open_clip: Name of a model of open_clip to measure, too.

    Raises:
        UserError: for a model that does not belong to the task.
    """
    known = DISCOVERY if task == "discovery" else MODELS
    for name in model or ():
        base, _, compiled = name.partition(", ")
        if base not in known or compiled not in ("", *COMPILED):
            raise UserError(
                f"--model {name!r}: choose among {', '.join(map(repr, known))}, compiled as in 'meru, towers' "
                f"({', '.join(COMPILED)})"
            )
    if open_clip and task == "discovery":
        raise UserError("--open-clip: for --task image-text only")
    rows = measure_steps(encoder, batch, repeats, device, precision, task, models=model, open_clip=open_clip)
    first = reference(rows)
    kind = {
        "discovery": "two views of every image, half of them labelled",
        "image-text": "captions of 8 to 24 words; crops and grid encode one and four more crops of every image "
        "with the image tower",
    }
    note = (
        f"{' '.join(encoder)}, batch {batch}, {precision} towers, {kind[task]}; median of {repeats} rounds in "
        f"random order{', four steps each' if device == 'cuda' else ''}."
    )
    if open_clip:
        note += f" open_clip's step: {OPEN_CLIP_STEP}"
    rate = f"{rows[0]['product_teraflops']:.3g} TFLOP/s"
    columns = ["model", "step", f"over {first['model']}", "images/s", f"share of the matmul rate ({rate})"]
    cells = [
        [
            *(row["model"], f"{1000 * row['seconds']:.0f} ms", f"{row['ratio']:.2f}×"),
            *(f"{row['images_per_second']:.3g}", f"{100 * row['teraflops'] / row['product_teraflops']:.0f} %"),
        ]
        for row in rows
    ]
    if device == "cuda":
        columns.append("peak memory")
        for cell, row in zip(cells, rows, strict=True):
            cell.append(f"{row['peak_bytes'] / 2**30:.1f} GiB")
    return note + "\n\n" + markdown_table(columns, cells)


def reference(rows: list[dict]) -> dict:
    """The reference row of the ratios: MERU's or SimGCD's, else the first."""
    return next((row for row in rows if row["model"] in ("meru", "simgcd")), rows[0])


def measure_steps(
    encoder: list[str],
    batch_size: int,
    repeats: int,
    device: str,
    precision: str,
    task: str,
    *,
    models: list[str] | None = None,
    open_clip: str | None = None,
) -> list[dict]:
    """Measure a step of every model and a matrix product; they take turns.

    Args:
        encoder: Overrides.
        models: Names among `MODELS` or `DISCOVERY`, all by default; a suffix says what of it to compile, as in
            `meru, towers`: see `COMPILED`.
        open_clip: Name of a model of open_clip to measure, too.

    Returns:
        For every model `model`, `seconds`, `ratio` to the reference, `images_per_second`, `loss` of the last step,
        `teraflops` a second, `product_teraflops` of the matrix product, and on a GPU `peak_bytes`, without the other
        models' share.
    """
    choices = DISCOVERY if task == "discovery" else MODELS
    steps, teraflop, static, peaks = {}, {}, {}, {}
    names = [*(models or choices), *([f"open_clip {open_clip}"] if open_clip else [])]
    for name in names:
        before = allocated(device)
        model, _, compiled = name.partition(", ")
        if model in choices:
            options = {"towers_alone": model == "towers alone", "compiled": compiled or None}
            steps[name] = training_step([*choices[model], *encoder], batch_size, device, precision, **options)
        else:
            steps[name] = open_clip_step(open_clip, batch_size, device, precision)
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            steps[name]()
        teraflop[name] = counter.get_total_flops() / 1e12
        steps[name]()  # allocates the optimizer's state
        static[name] = allocated(device) - before
        peaks[name] = static[name] + most_allocated(steps[name], device)
    size = 8192 if device == "cuda" else 2048 if repeats > 1 else 128
    product = matrix_product(size, torch.bfloat16 if precision == "bf16" else torch.float32, device)
    times, losses = taking_turns({**steps, PRODUCT: product}, repeats, device)
    product_teraflops = 2 * size**3 / statistics.median(times[PRODUCT]) / 1e12
    rows = [{"model": name} for name in names]
    base = times[reference(rows)["model"]]
    for row in rows:
        name = row["model"]
        seconds = statistics.median(times[name])
        ratio = statistics.median(one / other for one, other in zip(times[name], base, strict=True))
        row |= {"seconds": seconds, "ratio": ratio, "images_per_second": batch_size / seconds}
        row["loss"] = losses[name].item()
        row |= {"teraflops": teraflop[name] / seconds, "product_teraflops": product_teraflops}
        if device == "cuda":
            row["peak_bytes"] = peaks[name]
    return rows


def taking_turns(
    steps: dict[str, Callable[[], Tensor]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Seconds of a step in every round after a warm-up, in random order, and the last loss of each model.

    On a GPU, a round takes four steps, because in training one is started while the one before is still computed.
    """
    warmup, in_a_row = (3, 4) if device == "cuda" else (1, 1)
    times, losses = defaultdict(list), {}
    for _ in range(repeats + warmup):
        for name in random.sample(sorted(steps), len(steps)):
            synchronize(device)
            start = time.perf_counter()
            for _ in range(in_a_row):
                losses[name] = steps[name]()
            synchronize(device)
            times[name].append((time.perf_counter() - start) / in_a_row)
    return {name: of_name[warmup:] for name, of_name in times.items()}, losses


def matrix_product(size: int, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    """A function that multiplies two random square matrices, the bound that steps are compared with."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def allocated(device: str) -> int:
    """Allocated bytes on a GPU; 0 on a CPU, which has no such statistic."""
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def most_allocated(step: Callable[[], Tensor], device: str) -> int:
    """Peak bytes that a step allocates on a GPU, beyond those allocated before."""
    if device != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


def training_step(
    overrides: list[str],
    batch_size: int,
    device: str,
    precision: str,
    *,
    towers_alone: bool = False,
    compiled: str | None = None,
    clip_gradient_norm: float | None = None,
) -> Callable[[], Tensor]:
    """Make a function that takes one training step and returns its loss; the batch is the same for every model.

    As in nine of ten training steps, no figures for logs are computed. `compiled` is one of `COMPILED` or None.
    """
    config, _ = compose(["name=benchmark", *overrides])
    if is_discovery(config):
        config.discovery.num_classes = 200  # as in CUB
    torch.manual_seed(0)
    model, tokenizer, _ = build(without_pretrained_weights(config, low_rank=True))  # weights do not affect the time
    model = model.to(device).train()
    model.reports_figures = False
    compiled = compiled or {True: "model", False: None}.get(config.trainer.compile, config.trainer.compile)
    if compiled in ("towers", "graphs"):
        compile_towers(model, graphs=compiled == "graphs")
    forward = torch.compile(model) if compiled == "model" else model
    optimizer = build_optimizer(model, **instantiate(config.optim, _convert_="all"))
    model.micro_batch_size = config.trainer.micro_batch_size
    pictures = torch.randint(0, 256, (2, batch_size, 3, *sides(model.image_size)), dtype=torch.uint8)

    def on_device(tensors: dict[str, Tensor]) -> dict:
        return next(iter(arriving([tensors], torch.device(device), few_shapes=compiled == "graphs")))

    batch = on_device(views(pictures) if is_discovery(config) else pairs(pictures, tokenizer))

    def step(**replaced: Tensor) -> Tensor:
        given = {**batch, **on_device(replaced)}
        if compiled == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with fastest_attention(torch.device(device), bf16=precision == "bf16"):
            with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
                if towers_alone:
                    texts = model.text_features(given["tokens"], count=given["tokens_count"])
                    loss = texts.square().mean() + model.image_features(given["image"]).square().mean()
                else:
                    loss = forward(given).loss
            loss.backward()
        if clip_gradient_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        model.constrain_()
        return loss.detach()

    step.tokenizer = tokenizer
    return step


OPEN_CLIP_STEP = (
    "create_model, ClipLoss and fused AdamW as its training script has them, normalised float images, captions padded "
    "to 77 tokens."
)


def open_clip_step(name: str, batch_size: int, device: str, precision: str) -> Callable[[], Tensor]:
    """open_clip's own training step on random images and the same captions, padded by its tokenizer."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained=None, device=device).train()
    plain = [p for p in model.parameters() if p.dim() >= 2]
    scalars = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": scalars, "weight_decay": 0.0}, {"params": plain, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, fused=True)
    criterion = open_clip.ClipLoss()
    size = model.visual.image_size
    images = torch.randn(batch_size, 3, *(size if isinstance(size, tuple) else (size, size)), device=device)
    tokens = open_clip.get_tokenizer(name)(captions_like_ours(batch_size)).to(device)

    def step() -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(*model(images, tokens)[:3])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        return loss.detach()

    return step


def captions_like_ours(count: int, seed: int = 0) -> list[str]:
    """Captions of 8 to 24 words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(8, 24))) for _ in range(count)]


def views(pictures: Tensor) -> dict[str, Tensor]:
    """A batch of two views of every image, half of them labelled, for category discovery."""
    numbers = torch.arange(pictures.shape[1])
    return {
        "image": pictures.transpose(0, 1),
        "label": numbers % 100,
        "labelled": numbers % 2 == 0,
        "epoch": torch.tensor(10.0),
    }


def pairs(pictures: torch.Tensor, tokenizer) -> dict[str, torch.Tensor]:
    """A batch of images, captions and parts, with all inputs of image–text models."""
    batch_size = pictures.shape[1]
    return {
        "image": pictures[0],
        "tokens": tokenizer.batch(captions_like_ours(batch_size)),
        "part_image": pictures[1],
        "part_tokens": tokenizer.batch(["long black beak"] * batch_size),
        "has_part": torch.ones(batch_size, dtype=torch.bool),
        "has_part_text": torch.ones(batch_size, dtype=torch.bool),
        "query_tokens": tokenizer.batch(["long black beak"] * batch_size)[:, None],
        "query_weight": torch.ones(batch_size, 1),
        "query_parent": torch.full((batch_size, 1), -1),
        "image_index": torch.arange(batch_size),
        "class_index": torch.arange(batch_size) // 2,
    }
