"""Images with several labels: each class ranks the images.

The score of an image for a class is its similarity to the class, averaged over its prompts as in
`meru.evaluation.zero_shot`.

    multilabel/mean_average_precision   AP of each class over the images, averaged over the classes with a positive
    multilabel/<class>/average_precision

AP is the sum over thresholds of precision times the rise of recall, equal scores being one threshold; it is not
interpolated at 11 points as in the challenge of PASCAL VOC 2007, which gives slightly other values.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure

from meru.errors import UserError
from meru.evaluation.image_text import embed_images
from meru.evaluation.suite import Subject
from meru.evaluation.zero_shot import embed_names
from meru.metrics.retrieval import score_chunks
from meru.reports.attention import printable

MEAN = "multilabel/mean_average_precision"
CHANCE = "multilabel/chance_mean_average_precision"


@torch.no_grad()
def evaluate_multilabel(subject: Subject) -> dict[str, float | None]:
    """The figures above; chance is the share of positives, the expectation under a random order of many images.

    An image whose target is −1 for a class is left out of the ranking of that class.

    Raises:
        UserError: if no image that decodes shows any of the classes.
    """
    from sklearn.metrics import average_precision_score

    data = subject.label_sets()
    images = embed_images(
        subject.model,
        subject.batches(data.images, {"class_index": torch.arange(len(data.images))}),
        device=subject.device,
    )
    classes = embed_names(subject, data.class_names)
    chunks = score_chunks(images["embeddings"], classes, similarity=subject.model.similarity, chunk_size=1024)
    scores = torch.cat([scores.cpu() for _, scores in chunks]).numpy()
    targets = data.targets[images["class_index"].cpu()].numpy()
    precision, shares = {}, {}
    for number, name in enumerate(data.class_names):
        counts = targets[:, number] >= 0
        if (targets[counts, number] == 1).any():
            precision[name] = float(average_precision_score(targets[counts, number], scores[counts, number]))
            shares[name] = float(targets[counts, number].mean())
    if not precision:
        raise UserError("suite=multilabel: no image shows any of the classes: complete the data")
    figures = {f"multilabel/{name}/average_precision": value for name, value in precision.items()}
    figures |= {f"multilabel/{name}/chance_average_precision": share for name, share in shares.items()}
    return {
        MEAN: sum(precision.values()) / len(precision),
        CHANCE: sum(shares.values()) / len(shares),
        "multilabel/images": float(len(targets)),
        "multilabel/classes": float(len(precision)),
        **figures,
    }


def format_multilabel(figures: Mapping[str, float | None], title: str) -> str:
    """The mean, and the classes with the highest and the lowest AP."""
    by_class = _by_class(figures)
    names = list(by_class)
    shown = names if len(names) <= 10 else [*names[:5], "…", *names[-5:]]
    width = max(len("mean of classes"), *map(len, shown))
    lines = [f"{title}: average precision, percent (chance level)"]
    lines.append(f"{'mean of classes':<{width}}{100 * figures[MEAN]:>7.1f} ({100 * figures[CHANCE]:.1f})")
    for name in shown:
        if name == "…":
            lines.append(name)
            continue
        chance = figures[f"multilabel/{name}/chance_average_precision"]
        lines.append(f"{name:<{width}}{100 * by_class[name]:>7.1f} ({100 * chance:.1f})")
    count = f"{figures['multilabel/images']:.0f} images, {figures['multilabel/classes']:.0f} classes with a positive"
    return "\n".join([*lines, count])


def multilabel_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """The AP of every class, from the highest to the lowest, with the chance levels."""
    by_class = _by_class(figures)
    figure = Figure(figsize=(6, 1.5 + 0.18 * len(by_class)), layout="constrained")
    axes = figure.subplots()
    chance = [100 * figures[f"multilabel/{name}/chance_average_precision"] for name in by_class]
    axes.barh(list(by_class), [100 * value for value in by_class.values()])
    axes.plot(chance, list(by_class), color="black", marker="|", linestyle="none")
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("average precision, percent (line: chance)")
    axes.set_title(printable(title, width=60), fontsize=10, parse_math=False)
    return figure


def _by_class(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Class → AP, from the highest to the lowest."""
    end = "/average_precision"
    found = {
        name.removeprefix("multilabel/").removesuffix(end): figure
        for name, figure in figures.items()
        if name.endswith(end)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
