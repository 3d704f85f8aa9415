"""The losses of twenty training steps of every model, in every mode, equal those in losses.json.

A configuration is composed, its model built and trained by its optimizer, as scripts/train.py does; the batches are
synthetic. The tolerance of 2e-4 is for the matrix products of other CPUs, whose rounding twenty steps amplify.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import composed
from hydra.utils import instantiate

from meru.assemble import build
from meru.training.optimizer import build_optimizer

PINS = Path(__file__).with_name("losses.json")
STEPS, BATCH, CLASSES, SIDE = 20, 8, 4, 32

TOWER = ["encoder.image.image_size=32", "optim.learning_rate=3e-4"]
TRANSFORMER = [
    *TOWER, "encoder.image.name=test_vit",
    "+encoder.image.arguments={embed_dim: 32, depth: 1, num_heads: 2, patch_size: 8}",
]  # fmt: skip
CONVOLUTIONAL = [*TOWER, "encoder.image.name=test_resnet"]
TEXT = ["encoder.text.architecture=L1_W16_A2", "encoder.embedding_dimension=16"]
DISCOVERY = [
    "optim=sgd", "optim.learning_rate=2e-3", "discovery.num_classes=6", "model.projection_width=32",
    "model.projection_dimension=16", "loss.self_distillation.epochs=2",
]  # fmt: skip
HYPGCD = ["model=hypgcd", *DISCOVERY, "loss.hierarchy.neighbours=6", "loss.hierarchy.triplets=5"]

# Optional terms of the image–text models.
MARGIN = ["loss.semantic_margin.weight=1"]
TREE = [
    "loss.category.weight=0.1", "loss.hierarchy.weight=0.1", "loss.hierarchy.neighbours=6", "loss.hierarchy.triplets=5",
]  # fmt: skip
RELEASED_GAHR = [
    "loss.semantic_margin.margin_source=cross", "loss.word_contrast.scope=batch", "model.class_token=true",
    "loss.cyclic.across=1000",
]  # fmt: skip
ALL_TOKEN_TERMS = [
    "loss.part_entailment.weight=0.1", "loss.late_interaction.weight=0.1", "loss.word_contrast.scope=batch",
]  # fmt: skip

CASES = {
    "clip": ["model=clip"],
    "clip, positives: pair": ["model=clip", "loss.contrastive.positives=pair"],
    "clip, positives: image": ["model=clip", "loss.contrastive.positives=image"],
    "clip, semantic margin and hierarchy": ["model=clip", *MARGIN, *TREE],
    "clip, margin from the other modality": ["model=clip", *MARGIN, "loss.semantic_margin.margin_source=cross"],
    "clip, plain gradients, midpoints": [
        "model=clip", *TREE, "loss.category.riemannian=false", "loss.hierarchy.ancestors=midpoint",
    ],
    "meru": ["model=meru"],
    "meru, fixed curvature": ["model=meru", "model.learn_curvature=false", "model.curvature=0.5"],
    "meru, initial radius": ["model=meru", "model.initial_radius=0.5"],
    "meru, floor of the apexes": ["model=meru", "loss.entailment.apex_floor=2", "loss.entailment.minimum_radius=0.3"],
    "meru, semantic margin and hierarchy": ["model=meru", *MARGIN, *TREE],
    "meru from scratch": ["model=meru_from_scratch"],
    "hycoclip": ["model=hycoclip"],
    "hycoclip, apertures and floor": [
        "model=hycoclip", "loss.entailment.across_aperture=1", "loss.entailment.within_aperture=1",
        "loss.entailment.apex_floor=2",
    ],
    "hycoclip, semantic margin and hierarchy": ["model=hycoclip", *MARGIN, *TREE],
    "meru_patches, tokens": ["model=meru_patches"],
    "meru_patches, tokens, every term": ["model=meru_patches", *ALL_TOKEN_TERMS, *MARGIN],
    "meru_patches, tokens, hierarchy": ["model=meru_patches", *TREE],
    "meru_patches, tokens, softmax, no window": [
        "model=meru_patches", "model.activation=softmax", "model.word_window=null", "model.class_token=true",
    ],
    "meru_patches, tokens without attention": [
        "model=meru_patches", "loss.word_grounding.weight=0", "loss.word_contrast.weight=0",
        "loss.patch_agreement.weight=0", "loss.part_entailment.weight=0.1",
    ],
    "meru_patches, convolutional": [
        "model=meru_patches", *CONVOLUTIONAL, "encoder.image.patch_level=1", "model.merge=2",
    ],
    "meru_patches, crops": ["model=hycoclip"],
    "meru_patches, grid": ["model=meru_grid"],
    "gahr, lorentz": ["model=gahr"],
    "gahr, cosine": ["model=gahr", "model.space=sphere"],
    "gahr, lorentz, released": ["model=gahr", *RELEASED_GAHR],
    "gahr, cosine, released": ["model=gahr", *RELEASED_GAHR, "model.space=sphere"],
    "gahr, with what it has not": [
        "model=gahr", "loss.contrastive.weight=0.1", "loss.entailment.weight=0.1", "loss.word_grounding.weight=0.1",
        "loss.part_entailment.weight=0.1",
    ],
    "simgcd": ["model=simgcd", *DISCOVERY],
    "simgcd, convolutional": ["model=simgcd", *DISCOVERY, *CONVOLUTIONAL, "optim.learning_rate=1e-4"],
    "hypgcd": HYPGCD,
    "hypgcd, midpoints, plain gradients": [
        *HYPGCD, "loss.hierarchy.ancestors=midpoint", "loss.category.riemannian=false",
    ],
    "hypgcd, proxies": [
        *HYPGCD, "loss.hierarchy.ancestors=proxies", "loss.hierarchy.proxies=12", "loss.hierarchy.exclude_members=true",
    ],
    "hypgcd, released": ["model=hypgcd_released", *HYPGCD[1:]],
}  # fmt: skip


def losses_of(words: list[str]) -> dict[str, list[float]]:
    """The total loss and each unweighted term at every step, by name."""
    towers = [] if "encoder.image.name=test_resnet" in words else TRANSFORMER
    config = composed(*towers, *TEXT, *words)
    torch.manual_seed(0)
    model = build(config).model.train()
    optimizer = build_optimizer(model, **instantiate(config.optim, _convert_="all"))
    make = discovery_batch if config.get("task") == "discovery" else image_text_batch
    batches = [make(torch.Generator().manual_seed(seed)) for seed in range(3)]
    if getattr(model, "initial_radius", None):
        model.start_at_radius([batches[0]["image"]], [batches[0]["tokens"]])
    torch.manual_seed(1)
    losses: dict[str, list[float]] = {}
    for step in range(STEPS):
        output = model({**batches[step % len(batches)], "epoch": torch.tensor(step / 8)})
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.constrain_()
        terms = {name: value for name, value in output.logs.items() if name.startswith("loss/")}
        for name, value in {"loss": output.loss, **terms}.items():
            losses.setdefault(name, []).append(float(f"{value.item():.7g}"))
    return losses


def pictures(classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Noise about a colour of each class, uint8 `(B, 3, S, S)`."""
    colours = torch.tensor([[200, 40, 40], [40, 180, 40], [40, 40, 200], [210, 200, 40]])[classes]
    noise = torch.randint(-40, 41, (len(classes), 3, SIDE, SIDE), generator=generator)
    return (colours[:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)


def captions(classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Token ids of sentences of different lengths in which one word names the class, int64 `(B, 12)`."""
    tokens = torch.randint(320, 1000, (len(classes), 12), generator=generator)
    lengths = torch.randint(5, 13, (len(classes),), generator=generator)
    tokens[:, 0], tokens[:, 2] = 49406, 2000 + classes
    places = torch.arange(12)
    tokens = tokens.masked_fill(places >= lengths[:, None], 0)
    return tokens.masked_fill(places == lengths[:, None] - 1, 49407)


def image_text_batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Two photographs of each class; the last two captions are of one photograph; some lack a part or its words."""
    classes = torch.arange(BATCH) % CLASSES
    classes[-1] = classes[-2]
    index = torch.arange(BATCH)
    index[-1] = index[-2]
    return {
        "image": pictures(classes, generator),
        "tokens": captions(classes, generator),
        "image_index": index,
        "class_index": classes,
        "part_image": pictures(classes, generator),
        "part_tokens": captions(classes, generator)[:, :8],
        "has_part": torch.arange(BATCH) != 1,
        "has_part_text": torch.arange(BATCH) != 2,
    }


def discovery_batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Two views of two images of each class; one of each of the first three classes is labelled."""
    classes = torch.arange(BATCH) % CLASSES
    views = torch.stack([pictures(classes, generator), pictures(classes, generator)], dim=1)
    return {"image": views, "label": classes, "labelled": torch.arange(BATCH) < 3}


@pytest.fixture(scope="module")
def pinned() -> dict[str, dict[str, list[float]]]:
    return json.loads(PINS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_pinned(case, pinned):
    losses = losses_of(CASES[case])
    assert losses.keys() == pinned[case].keys()
    for name, values in losses.items():
        assert values == pytest.approx(pinned[case][name], rel=2e-4, abs=1e-5), name


def test_every_case_is_pinned_and_learns(pinned):
    assert list(pinned) == list(CASES)
    for case, losses in pinned.items():
        assert len(set(losses["loss"])) == STEPS, case


def rewrite() -> None:
    """Pin the present losses."""
    rows = []
    for case, words in CASES.items():
        terms = (f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in losses_of(words).items())
        rows.append(f"{json.dumps(case, ensure_ascii=False)}: {{\n" + ",\n".join(terms) + "\n}")
    PINS.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
