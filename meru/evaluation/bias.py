"""The bias towards old classes: how many unlabelled images are predicted as old ones, and a correction.

Only images of old classes have labels, so a classifier tends to predict old classes too often. How often it should
follows without the labels of unlabelled images, if old and new classes have on average equally many images: N training
images, L of them labelled and U = N − L unlabelled, are divided among K classes, K_old of them old, so that

    π = (K_old · N/K − L) / U

of the unlabelled images are of old classes. The correction adds one number β to the logits o/T of all old classes, as
prior-adjusted logits do with one number for each class (Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR
2021; Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural Computation 2002):

    β = strength · (the π-quantile of max_new o/T − max_old o/T over the unlabelled training images)

With strength 1, a share π of these is predicted as old. One number can be estimated from few images, and it assumes
nothing about the sizes of single classes. Test images get the same β, whatever their own proportions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from meru.data.discovery.splits import DiscoverySplit

log = logging.getLogger("meru")


def best_of_groups(logits: Tensor, num_old: int) -> dict[str, Tensor]:
    """The best old and the best new class of every image; empty if there are only old ones, or none.

    Args:
        logits: o/T, `(n, K)`, old classes first.
        num_old: K_old.

    Returns:
        `group_class` int64, its logit `group_peak`, and `group_mass`, the logarithm of the sum of the exponentials of
        the group's logits; all `(n, 2)`, old and new.
    """
    if not 0 < num_old < logits.shape[1]:
        return {}
    groups = logits[:, :num_old], logits[:, num_old:]
    return {
        "group_class": torch.stack([groups[0].argmax(dim=1), num_old + groups[1].argmax(dim=1)], dim=1),
        "group_peak": torch.stack([group.amax(dim=1) for group in groups], dim=1),
        "group_mass": torch.stack([group.logsumexp(dim=1) for group in groups], dim=1),
    }


def expected_old_share(split: DiscoverySplit, *, num_old: int, num_classes: int) -> float:
    """π of the training images, in [0, 1]; only their number and that of the labelled ones count."""
    labelled = int(split.labelled.sum())
    unlabelled = max(1, len(split) - labelled)
    return min(1.0, max(0.0, (num_old * len(split) / num_classes - labelled) / unlabelled))


def offset_of(peaks: Tensor, share: float) -> float:
    """β of strength 1: with it, `share` of the images are predicted as old classes, up to rounding and ties.

    Args:
        peaks: `group_peak` of the images, `(n, 2)`.
        share: π; it must leave an image for old and for new classes.

    Raises:
        ValueError: if it does not.
    """
    margins = (peaks[:, 1].double() - peaks[:, 0].double()).sort().values
    count = round(share * len(margins))
    if not 0 < count < len(margins):
        raise ValueError(f"a share of {share} of {len(margins)} images leaves none for old or for new classes")
    return float((margins[count - 1] + margins[count]) / 2)


def with_offset(read: Mapping[str, Tensor], offset: float) -> dict[str, Tensor]:
    """The result of `read_features` with `prediction` and `confidence` after β = `offset` is added to old logits."""
    shift = torch.tensor([offset, 0.0], dtype=torch.float64)
    peak, mass = read["group_peak"].double() + shift, read["group_mass"].double() + shift
    new = (peak[:, 1] > peak[:, 0]).long()[:, None]
    confidence = (peak.gather(1, new)[:, 0] - mass.logsumexp(dim=1)).exp()
    return {**read, "prediction": read["group_class"].gather(1, new)[:, 0], "confidence": confidence.float()}


def corrected(
    split: DiscoverySplit,
    train: dict[str, Tensor],
    test: dict[str, Tensor],
    *,
    num_old: int,
    num_classes: int,
    strength: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Correct the predictions on both splits, and compute the figures of the bias.

    Args:
        split: The training images.
        train, test: Results of `read_features` with `num_old`; they may be empty.
        num_old, num_classes: K_old and K, those of the classifier.
        strength: In [0, 1]; 0: no correction.

    Returns:
        `train` and `test`, and the figures `predicted_old/share` of the unlabelled training images, after the
        correction, `predicted_old/expected_share`, π, and with a correction `predicted_old/offset`, β. Without
        unlabelled training images or new classes in the classifier, nothing is corrected and there are no figures.
    """
    if not train or not (unlabelled := ~train["labelled"]).any() or "group_peak" not in train:
        if strength:
            log.warning("discovery.prior_adjustment: no unlabelled image or no new class, so nothing is adjusted")
        return train, test, {}
    expected = expected_old_share(split, num_old=num_old, num_classes=num_classes)
    figures = {"predicted_old/expected_share": expected}
    if strength:
        try:
            offset = strength * offset_of(train["group_peak"][unlabelled], expected)
        except ValueError as error:
            log.warning("discovery.prior_adjustment: nothing is adjusted, because %s", error)
        else:
            train, test = (with_offset(read, offset) if read else read for read in (train, test))
            figures["predicted_old/offset"] = offset
    share = (train["prediction"][unlabelled] < num_old).double().mean().item()
    return train, test, {"predicted_old/share": share, **figures}


def described_bias(figures: Mapping[str, float]) -> str:
    """The figures of `corrected` as a line of a table, with the line break before it; empty without them."""
    if (share := figures.get("predicted_old/share")) is None:
        return ""
    expected, offset = figures["predicted_old/expected_share"], figures.get("predicted_old/offset")
    changed = "" if offset is None else "added to" if offset > 0 else "subtracted from"
    shifted = f", with {abs(offset):.3f} {changed} the logits of old classes" if changed else ""
    return (
        f"\nunlabelled images predicted as old classes by the rows of the classifier{shifted}: {100 * share:.1f} "
        f"({100 * expected:.1f} if old and new classes are equally large)"
    )
