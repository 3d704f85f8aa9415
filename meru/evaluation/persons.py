"""Text-based person search on any data set of persons, also another than that of the training: `suite=persons`.

Every caption is a query, every image of the split is in the gallery, an image is right if it shows the person, and
cameras do not matter. Rank-k, mAP and mINP by the model's similarity (`…/identity`) and by the cosine of the embeddings
(`…/identity_cosine`), from captions to images and back. `scripts/compare.py --transfer` makes a table of several runs
and data sets of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from meru.errors import UserError
from meru.evaluation.image_text import evaluate_image_text
from meru.evaluation.suite import Subject
from meru.reports.bars import bars_figure
from meru.reports.tables import format_rows

ROWS = {
    "text → image": "text_to_image/identity",
    "text → image, by cosine": "text_to_image/identity_cosine",
    "image → text": "image_to_text/identity",
    "image → text, by cosine": "image_to_text/identity_cosine",
}
COLUMNS = {
    **{f"R@{k}": f"recall@{k}" for k in (1, 5, 10)},
    "mAP": "mean_average_precision",
    "mINP": "mean_inverse_negative_penalty",
}


def evaluate_persons(subject: Subject) -> dict[str, float | None]:
    """The figures above, with chance levels.

    Raises:
        UserError: if the classes of the data are no identities of persons.
    """
    if subject.data.class_kind != "identity":
        raise UserError(
            "suite=persons: these data have no identities of persons: choose a data set of persons, such as "
            "data=cuhk_pedes or data=pedestrians, or suite=retrieval"
        )
    records = subject.records()
    figures = evaluate_image_text(
        subject.model,
        subject.batches_of(records),
        captions=[record.captions for record in records],
        class_names=subject.data.class_names,
        class_kind="identity",
        tokenizer=subject.tokenize,
        device=subject.device,
        captions_per_image=subject.settings["captions_per_image"],
    )
    return {**figures, "identities": float(len({record.class_index for record in records}))}


def format_persons(figures: Mapping[str, float | None], title: str) -> str:
    """Rank-1, -5 and -10, mAP and mINP in both directions."""
    table = format_rows(figures, title, rows=ROWS, columns=COLUMNS)
    queries, images = (figures[f"{row}/identity/queries"] for row in ("text_to_image", "image_to_text"))
    return f"{table}\n{figures['identities']:.0f} persons, {images:.0f} images, {queries:.0f} captions"


persons_figure = partial(bars_figure, rows=ROWS, columns=COLUMNS)
