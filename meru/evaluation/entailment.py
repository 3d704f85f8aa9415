"""Whether an image lies in the cones of its captions, from coarse to fine: `suite=entailment`.

The data are images with lists of captions, from coarse to fine, in the form of HierarCaps (`data=hierarcaps`). A pair
is an image, the specific point, and a caption, the apex of the cone. Positive pairs are an image with every caption of
its list; negative ones are an image with the finest captions of up to 100 other images, drawn with a fixed seed. Pairs
are ranked by three scores, θ being the exterior angle at the caption and ω the half aperture of its cone:

    clamped/average_precision   by max(0, 1 − 2θ/π), which is 0 for every θ ≥ π/2
    margin/…                    by ω − θ, which is ≥ 0 in the cone
    similarity/…                by the model's similarity, as a control: what ranks without cones
    …/area_under_roc, …/share_of_ties, …/share_of_zeros      see `meru.metrics.entailment`
    share_in_cone/positive, …/negative                       pairs with ω ≥ θ

A model without cones (CLIP) is ranked by its similarity alone, the cosine. The measures of HierarCaps follow:

    hierarcaps/order_correlation        Kendall's τ of the order of a list and of its captions' distances from the root
    hierarcaps/precision, …/recall      of the captions met on the way from the root to an image
    distance_from_root/1, …/2, …        mean of the captions at each place of their lists, and of `…/image`

The root is the origin of the space; on a sphere, which has none, it is the embedding of the empty caption, and the
distance is that of the release, the length of the difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from meru.data.datasets.caption_lists import CaptionLists
from meru.data.records import ImageRecord
from meru.errors import UserError
from meru.evaluation.image_text import embed_captions, embed_images
from meru.evaluation.suite import Subject
from meru.metrics.entailment import order_correlation, pair_metrics, retrieval_by_level
from meru.reports.attention import printable
from meru.reports.bars import draw_bars
from meru.reports.tables import format_rows

NEGATIVES = 100  # negative pairs of an image
CHUNK = 8192  # pairs scored at a time
ROWS = {"cone, 1 − 2θ/π ≥ 0": "clamped", "cone, ω − θ": "margin", "similarity": "similarity"}
COLUMNS = {"AP": "average_precision", "AUROC": "area_under_roc", "ties": "share_of_ties"}


@torch.no_grad()
def evaluate_entailment(subject: Subject) -> dict[str, float | None]:
    """The figures above.

    Raises:
        UserError: if the captions of the data are in no order, or all images have the same ones: no negative pairs.
    """
    if not isinstance(subject.data, CaptionLists):
        raise UserError(
            "suite=entailment needs captions from coarse to fine, and these data have none: choose data=hierarcaps, "
            "which also reads a table of your own (data.path and data.images)"
        )
    model, device = subject.model, subject.device
    records = subject.records()
    images = embed_images(model, subject.batches_of(records), device=device)
    kept = [records[index] for index in images["image_index"].tolist()]
    captions = list(dict.fromkeys(caption for record in kept for caption in record.captions))
    place = {caption: number for number, caption in enumerate(captions)}
    embedded = embed_captions(model, ["", *captions], tokenizer=subject.tokenize, device=device)
    root, texts = embedded[0], embedded[1:]
    rows, columns, positive = pairs(kept)
    if positive.all():
        raise UserError("suite=entailment: all images have the same captions: give lists of different images")
    text_rows = torch.tensor([place[caption] for caption in columns], device=device)
    scores = score_pairs(model, images["embeddings"], texts, rows.to(device), text_rows)
    figures = {"images": float(len(kept)), "positive_pairs": float(positive.sum())}
    figures["negative_pairs"] = len(positive) - figures["positive_pairs"]
    for name, values in scores.items():
        figures |= {f"{name}/{metric}": figure for metric, figure in pair_metrics(values.cpu(), positive).items()}
    if "margin" in scores:
        inside = scores["margin"].cpu() >= 0
        figures["share_in_cone/positive"] = inside[positive].double().mean().item()
        figures["share_in_cone/negative"] = inside[~positive].double().mean().item()
    return figures | _of_lists(model, images["embeddings"], texts, kept, place, root)


def pairs(
    records: Sequence[ImageRecord], *, negatives: int = NEGATIVES, seed: int = 0
) -> tuple[Tensor, list[str], Tensor]:
    """Images with captions of their own lists, and with the finest ones of other images.

    Args:
        records: Captions from coarse to fine; records of one class are of one image.
        negatives: Negative pairs of a record, fewer if there are not as many other images.
        seed: Of the choice of negative pairs, drawn without replacement.

    Returns:
        Position in `records`, int64 `(n,)`; the n captions; whether a pair is positive, bool `(n,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    own: dict[int, set[str]] = {}
    for record in records:
        own.setdefault(record.class_index, set()).update(record.captions)
    rows, captions, positive = [], [], []
    for number, record in enumerate(records):
        shuffled = torch.randperm(len(records), generator=generator).tolist()
        finest = (records[other].captions[-1] for other in shuffled if records[other].class_index != record.class_index)
        drawn = itertools.islice((caption for caption in finest if caption not in own[record.class_index]), negatives)
        chosen = [*record.captions, *drawn]
        rows += [number] * len(chosen)
        captions += chosen
        positive += [True] * len(record.captions) + [False] * (len(chosen) - len(record.captions))
    return torch.tensor(rows), captions, torch.tensor(positive)


def score_pairs(model: nn.Module, images: Tensor, texts: Tensor, rows: Tensor, columns: Tensor) -> dict[str, Tensor]:
    """The scores of pairs by name, `(n,)` each.

    Args:
        model: Has `space` and `similarity`.
        images, texts: Points `(i, D)` and `(m, D)`.
        rows, columns: Image and text of each pair, int64 `(n,)`.
    """
    space = model.space
    minimum_radius = getattr(model, "loss", {}).get("entailment", {}).get("minimum_radius", 0.1)
    parts: dict[str, list[Tensor]] = {}
    # Whole rows of the matrix, by the same function as retrieval, and only then the pairs: rounding is the same.
    table = torch.cat([model.similarity(some, texts) for some in images.split(256)])
    for chunk in torch.arange(len(rows), device=rows.device).split(CHUNK):
        image, text = images[rows[chunk]], texts[columns[chunk]]
        if space.has_cones:
            angle, aperture = space.exterior_angle(text, image), space.half_aperture(text, minimum_radius)
            parts.setdefault("clamped", []).append((1 - 2 * angle / torch.pi).clamp(min=0))
            parts.setdefault("margin", []).append(aperture - angle)
        parts.setdefault("similarity", []).append(table[rows[chunk], columns[chunk]])
    return {name: torch.cat(values) for name, values in parts.items()}


def _of_lists(
    model: nn.Module,
    images: Tensor,
    texts: Tensor,
    records: Sequence[ImageRecord],
    place: Mapping[str, int],
    root: Tensor,
) -> dict[str, float | None]:
    """The measures of HierarCaps, and mean distances from the root; rows of one image are counted as one image."""

    def distance(points: Tensor) -> Tensor:
        return model.radius(points) if model.space.has_cones else (points - root).norm(dim=-1)

    radii = distance(texts)
    of_list = [radii[[place[caption] for caption in record.captions]] for record in records]
    first = list({record.class_index: row for row, record in reversed([*enumerate(records)])}.values())
    lists = [[each.captions for each in records if each.class_index == records[row].class_index] for row in first]
    scores = torch.cat([model.similarity(some, texts) for some in images[first].split(256)])
    found = retrieval_by_level(scores, radii, list(place), lists)
    figures = {
        "hierarcaps/order_correlation": order_correlation(of_list),
        "hierarcaps/chance_order_correlation": 0.0,
        **{f"hierarcaps/{name}": figure for name, figure in found.items()},
    }
    for level in range(max(len(each) for each in of_list)):
        at_level = torch.stack([each[level] for each in of_list if len(each) > level])
        figures[f"distance_from_root/{level + 1}"] = at_level.double().mean().item()
    figures["distance_from_root/image"] = distance(images).double().mean().item()
    return figures


def format_entailment(figures: Mapping[str, float | None], title: str) -> str:
    """AP, AUROC and the share of ties of each score, and the measures of HierarCaps."""
    lines = [format_rows(figures, title, rows=ROWS, columns=COLUMNS)]
    lines.append(
        f"{figures['images']:.0f} images, {figures['positive_pairs']:.0f} positive and "
        f"{figures['negative_pairs']:.0f} negative pairs"
    )
    if "margin/average_precision" in figures:
        inside = [f"{100 * figures[f'share_in_cone/{kind}']:.1f} of {kind} pairs" for kind in ("positive", "negative")]
        lines.append(f"in the cone: {', '.join(inside)}; distances from the origin:")
    else:
        lines.append("a sphere has no cones: pairs are ranked by the cosine; distances from the empty caption:")
    radii = _distances(figures)
    lines.append("  " + ", ".join(f"{label} {value:.3f}" for label, value in radii.items()))
    order = figures["hierarcaps/order_correlation"]
    lines.append(
        f"HierarCaps: order of captions, τ {'–' if order is None else f'{order:.3f}'}; "
        f"precision {100 * figures['hierarcaps/precision']:.1f}, recall {100 * figures['hierarcaps/recall']:.1f}"
    )
    return "\n".join(lines)


def entailment_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """Left: AP, AUROC and ties of each score. Right: mean distances from the root, from coarse to fine."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_bars(left, figures, rows=ROWS, columns=COLUMNS)
    radii = _distances(figures)
    right.bar(list(radii), list(radii.values()), color=["C0"] * (len(radii) - 1) + ["C1"])
    right.set_ylabel("mean distance from the root")
    figure.suptitle(printable(title, width=90), fontsize=10, parse_math=False)
    return figure


def _distances(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Mean distances from the root, by the place in the list, and of images."""
    found = {name.partition("/")[2]: value for name, value in figures.items() if name.startswith("distance_from_root/")}
    last = str(len(found) - 1)
    names = {"1": "coarsest", last: "finest", "image": "images"}
    return {names.get(name, name): value for name, value in found.items() if value is not None}
