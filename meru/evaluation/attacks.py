"""Attacks on images and captions against retrieval: `suite=attacks`.

From a sample of the split (`attack_images`, chosen by a fixed seed), the images alone form the gallery. Each is changed
by at most ε per value of the model's input (`attack_strengths`, in units of 1 / 255) so that the captions of its class
or person, or without classes its own captions, no longer match: by PGD, APGD-CE and APGD-DLR, with knowledge of the
model and of all captions of the sample, and rounded to 8 bits before it is measured. Captions are changed without
knowledge of the model, and once more as the worst of several draws.

    clean/text_to_image/class/recall@1    R@1 of the captions among the unchanged images
    pgd/4/text_to_image/class/recall@1    the same among images that PGD changed by at most 4 / 255
    pgd/4/image_to_text/class/recall@1    of these images among the captions
    apgd/4/…                              the worse of APGD-CE and APGD-DLR for each image, as in AutoAttack
    pgd/4/radius                          mean distance of these images from the origin
    pgd/4/auroc_above, …/auroc_below      AUROC of a larger, a smaller distance as the sign of an attack, for clean and
                                          attacked images; None on a sphere, where every distance is 1
    caption/order/…                       captions with their words in another order; also deletion and synonyms
    caption/order_worst/…                 of several such captions the one least similar to its own image
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from meru import sharing
from meru.data.records import ImageRecord
from meru.data.sampling import derived_seed
from meru.errors import UserError
from meru.evaluation.adversarial import ATTACKS, Scores, attacked, margin
from meru.evaluation.caption_attacks import CHANGES, changed_caption
from meru.evaluation.image_text import embed_captions
from meru.evaluation.robustness import SAME_RADIUS
from meru.evaluation.suite import Subject
from meru.metrics.retrieval import retrieval_metrics

DRAWS = 4  # of every change of a caption, for the worst of them
WORSE_OF = ("apgd_ce", "apgd_dlr")


def evaluate_attacks(subject: Subject) -> dict[str, float | None]:
    """The figures above, R@1 with its chance level.

    Raises:
        UserError: if the model gives no gradient, no image decodes, or the sample has fewer than three classes.
    """
    settings, device = subject.settings, subject.device
    records = sampled(subject.records(), settings["attack_images"])
    kind = subject.data.class_kind
    labels = torch.tensor([place if kind == "image" else each.class_index for place, each in enumerate(records)])
    of_image = [record.captions[: settings["captions_per_image"]] for record in records]
    image_of = torch.arange(len(records)).repeat_interleave(torch.tensor([len(some) for some in of_image]))
    captions = [caption for some in of_image for caption in some]
    groups = labels.unique(return_inverse=True)[1]
    require_wrong_groups(groups)
    texts = embed_captions(subject.model, captions, tokenizer=subject.tokenize, device=device)
    found = _embedded(subject, records, texts, groups[image_of], groups)
    if not sharing.leads():
        return {}
    kept = torch.isin(image_of, found["image_index"].cpu())
    row_of = {place: row for row, place in enumerate(found["image_index"].tolist())}
    search = _Search(
        model=subject.model,
        kind=kind,
        image_labels=labels.to(device)[found.pop("image_index")],
        text_labels=labels[image_of][kept].to(device),
        own=torch.tensor([row_of[place] for place in image_of[kept].tolist()], device=device),
    )
    own_captions = [caption for caption, each in zip(captions, kept.tolist(), strict=True) if each]
    figures: dict[str, float | None] = {"images": float(len(row_of)), "captions": float(len(own_captions))}
    figures["steps"] = float(settings["attack_steps"])
    for row, images in found.items():
        figures |= search.figures(row, images, texts[kept.to(device)])
        if row != "clean":
            figures |= signs_of(row, *(subject.model.radius(each) for each in (found["clean"], images)))
    for row, changed in _changed_captions(subject, own_captions, found["clean"][search.own]).items():
        figures |= search.figures(f"caption/{row}", found["clean"], changed)
    return figures


def sampled(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """At most `count` records in order, chosen by a fixed seed."""
    generator = torch.Generator().manual_seed(derived_seed(0, "attacked images"))
    chosen = torch.randperm(len(records), generator=generator)[:count].sort().values
    return [records[place] for place in chosen.tolist()]


def require_wrong_groups(groups: Tensor) -> None:
    """Raise a `UserError` unless every image can be taken for two others, which APGD-DLR compares."""
    if len(groups.unique()) < 3:
        raise UserError(
            f"suite=attacks: the {len(groups)} images chosen are of fewer than three classes, persons or, without "
            "classes, images: raise attack_images, or choose another split"
        )


def by_group(scores: Tensor, groups: Tensor) -> Tensor:
    """log Σ exp of the scores of each group: the softmax over groups is that over all candidates, summed by group.

    Captions of one class are alike: DLR, which compares the best with the third, would compare them with each other.

    Args:
        scores: Logits `(B, m)`.
        groups: Number of each candidate's group, from 0 without gaps, `(m,)`.

    Returns:
        Logits `(B, G)`.
    """
    shape, places = (len(scores), int(groups.max()) + 1), groups.expand_as(scores)
    highest = scores.detach().new_full(shape, -torch.inf).scatter_reduce(1, places, scores.detach(), "amax")
    sums = scores.new_zeros(shape).scatter_add(1, places, (scores - highest.gather(1, places)).exp())
    return sums.log() + highest


def _embedded(
    subject: Subject, records: Sequence[ImageRecord], texts: Tensor, text_groups: Tensor, image_groups: Tensor
) -> dict[str, Tensor]:
    """Embeddings of the images, `clean` and by `<attack>/<strength>`, and `image_index`, their places in `records`."""
    model, settings = subject.model, subject.settings
    scale = model.logit_scale.detach().exp() if hasattr(model, "logit_scale") else 1.0
    fixed, text_groups = texts.detach(), text_groups.to(subject.device)
    right = F.one_hot(image_groups).bool().to(subject.device)

    def scores(images: Tensor) -> Tensor:
        return by_group(scale * model.similarity(model.embed_image(images), fixed), text_groups)

    def embed(batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if not len(batch["image"]):
            return None
        images, places = (batch[name].to(subject.device) for name in ("image", "image_index"))
        found = {"image_index": places, "clean": images}
        for strength in settings["attack_strengths"]:
            found |= attacks_of(images, scores, right[places], strength=strength, steps=settings["attack_steps"])
        with torch.no_grad():
            return {name: each if name == "image_index" else model.embed_image(each) for name, each in found.items()}

    rows = sharing.rows_of(subject.batches_of(records), embed, device=subject.device)
    if not rows:
        raise UserError(f"none of the {len(records)} images decodes: restore the images")
    return rows


def attacks_of(images: Tensor, scores: Scores, right: Tensor, *, strength: int, steps: int) -> dict[str, Tensor]:
    """Images `(B, 3, S, S)` after every attack, by `<attack>/<strength>`; `apgd` is the worse of its two for each."""
    found = {
        name: attacked(attack, images, scores, right, strength=strength, steps=steps)
        for name, attack in ATTACKS.items()
    }
    with torch.no_grad():
        first, second = (margin(scores(found[name].float() / 255), right) for name in WORSE_OF)
    worse = (second < first).view(-1, 1, 1, 1)
    found["apgd"] = torch.where(worse, found[WORSE_OF[1]], found[WORSE_OF[0]])
    return {f"{name}/{strength}": each for name, each in found.items()}


class _Search:
    """Retrieval in both directions among the images of the sample and their captions.

    Args:
        model: Has `similarity` and `radius`.
        kind: What labels mean, for the names of figures.
        image_labels: `(n,)`.
        text_labels: `(m,)`.
        own: The image of each caption, `(m,)`.
    """

    def __init__(self, *, model: nn.Module, kind: str, image_labels: Tensor, text_labels: Tensor, own: Tensor):
        self.model, self.kind, self.own = model, kind, own
        self.image_labels, self.text_labels = image_labels, text_labels

    @torch.no_grad()
    def figures(self, row: str, images: Tensor, texts: Tensor) -> dict[str, float | None]:
        """R@1 of captions `(m, D)` and images `(n, D)`, and the mean radius of what was changed."""
        sides = {
            "text_to_image": (texts, images, self.text_labels, self.image_labels),
            "image_to_text": (images, texts, self.image_labels, self.text_labels),
        }
        found: dict[str, float | None] = {}
        for direction, (queries, gallery, asked, given) in sides.items():
            labels = {"query_labels": asked, "gallery_labels": given}
            metrics = retrieval_metrics(queries, gallery, ks=(1,), similarity=self.model.similarity, **labels)
            for name in ("recall@1", "chance_recall@1"):
                found[f"{row}/{direction}/{self.kind}/{name}"] = metrics[name]
        changed = texts if row.startswith("caption/") else images
        return {**found, f"{row}/radius": self.model.radius(changed).double().mean().item()}


def signs_of(row: str, clean: Tensor, after: Tensor) -> dict[str, float | None]:
    """`auroc_above` and `auroc_below` of radii of clean and attacked images, with chance levels; see `radius_auroc`."""
    above = radius_auroc(clean, after)
    below = None if above is None else 1 - above
    return {
        f"{row}/auroc_above": above,
        f"{row}/auroc_below": below,
        **{f"{row}/chance_auroc_{side}": 0.5 for side in ("above", "below")},
    }


def radius_auroc(clean: Tensor, after: Tensor) -> float | None:
    """AUROC of a larger radius as the sign of an attack: the chance that an attacked image is farther than a clean one.

    Args:
        clean: Radii of clean images, `(n,)`.
        after: Radii of attacked images, `(m,)`.

    Returns:
        0 … 1, ties count half; None if all radii are equal except for rounding, as on a sphere.
    """
    radii = torch.cat([clean, after]).detach().double().cpu()
    steps = (radii / (SAME_RADIUS * radii.max()).clamp(min=1e-30)).round()
    if bool((steps - steps[0]).abs().max() <= 1):
        return None
    changed = torch.cat([torch.zeros(len(clean)), torch.ones(len(after))])
    return float(roc_auc_score(changed.numpy(), steps.numpy()))


@torch.no_grad()
def _changed_captions(subject: Subject, captions: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Embeddings `(m, D)` of captions after each change, and as the worst of `DRAWS` for their own images `(m, D)`."""
    model, found = subject.model, {}
    for change in CHANGES:
        drawn = [changed_caption(caption, change, draw=draw) for draw in range(DRAWS) for caption in captions]
        texts = embed_captions(model, drawn, tokenizer=subject.tokenize, device=subject.device)
        of_draws = texts.unflatten(0, (DRAWS, -1))
        fits = torch.stack([model.similarity(images[i : i + 1], of_draws[:, i])[0] for i in range(len(captions))])
        worst = fits.argmin(dim=1)
        found[change] = of_draws[0]
        found[f"{change}_worst"] = of_draws[worst, torch.arange(len(captions), device=worst.device)]
    return found
