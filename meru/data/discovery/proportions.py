"""Other proportions of the same images: fewer old classes, and classes of unequal size."""

from __future__ import annotations

import torch

from meru.data.discovery.splits import UNKNOWN, DiscoveryData, DiscoverySplit
from meru.data.sampling import derived_seed
from meru.errors import UserError

LEAST = 2  # images of a class that remain: of an old one, a labelled and an unlabelled image


def with_old_share(data: DiscoveryData, share: float | None, *, seed: int) -> DiscoveryData:
    """The same images with fewer old classes; the others become new ones, without labelled images.

    Args:
        data: The benchmark.
        share: Old classes / all classes, in (0, 1), at most that of `data`; None: as they are.
        seed: Chooses the classes that stay old; those of a smaller share are among those of a larger one.

    Raises:
        UserError: if no class would stay old, more would be old than `data` has, or none of them has a labelled image.
    """
    if share is None:
        return data
    wanted, classes = round(share * len(data.class_names)), len(data.class_names)
    if not 1 <= wanted <= data.num_old:
        raise UserError(
            f"discovery.old_share={share}: {wanted} of {classes} classes would be old, but the data have "
            f"{data.num_old} old ones; give a share from {1 / classes:.3g} to {data.num_old / classes:.3g}"
        )
    kept = set(torch.randperm(data.num_old, generator=_generator(seed, "old classes"))[:wanted].tolist())
    order = [*sorted(kept), *(number for number in range(classes) if number not in kept)]
    position = torch.empty(classes, dtype=torch.int64)
    position[order] = torch.arange(classes)

    def renumbered(split: DiscoverySplit) -> DiscoverySplit:
        labels = torch.where(split.labels == UNKNOWN, UNKNOWN, position[split.labels])
        return DiscoverySplit(split.images, labels, split.labelled & (labels < wanted))

    train = renumbered(data.train)
    if not train.labelled.any():
        raise UserError(f"discovery.old_share={share}: no class that stays old has a labelled image; raise it")
    return DiscoveryData(
        class_names=tuple(data.class_names[number] for number in order),
        num_old=wanted,
        train=train,
        test=renumbered(data.test),
        families=None if data.families is None else tuple(data.families[number] for number in order),
    )


def with_imbalance(data: DiscoveryData, ratio: float | None, *, seed: int) -> DiscoveryData:
    """The same classes with long-tailed numbers of training images; the test images stay.

        n_k = n_max · ratio^(−k/(K − 1)),   k = 0 … K − 1

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, section 5.1; n_max is the size of
    the largest class. A class keeps all its images if it has fewer than n_k, and at least two. Each class keeps its
    share of labelled images, and an image of each kind that it had.

    Args:
        data: The benchmark. Images of unknown classes stay.
        ratio: Size of the largest class / size of the smallest one, at least 1; None: as they are.
        seed: Orders the classes, old and new ones mixed, and chooses the images. A larger ratio keeps a subset of the
            labelled images, and of the unlabelled ones, of each class.
    """
    if ratio is None:
        return data
    labels, classes = data.train.labels, len(data.class_names)
    rank = torch.empty(classes, dtype=torch.int64)
    rank[torch.randperm(classes, generator=_generator(seed, "order of classes"))] = torch.arange(classes)
    largest = int(labels[labels != UNKNOWN].bincount().max())
    profile = largest * float(ratio) ** (-rank.double() / max(1, classes - 1))
    priority = torch.rand(len(labels), generator=_generator(seed, "images to keep"), dtype=torch.float64)
    keep = labels == UNKNOWN
    for label in range(classes):
        of_class = labels == label
        kinds = [of_class & data.train.labelled, of_class & ~data.train.labelled]
        total = max(LEAST, round(float(profile[label])))
        for kind, count in zip(kinds, _divided([int(kind.sum()) for kind in kinds], total), strict=True):
            places = kind.nonzero().flatten()
            keep[places[priority[places].argsort()[:count]]] = True
    return DiscoveryData(data.class_names, data.num_old, data.train.where(keep), data.test, data.families)


def class_sizes(data: DiscoveryData) -> tuple[int, int]:
    """Training images of the smallest and of the largest known class that has any."""
    sizes = data.train.labels[data.train.labels != UNKNOWN].bincount()
    return int(sizes[sizes > 0].min()), int(sizes.max())


def _divided(counts: list[int], total: int) -> list[int]:
    """`total` images divided like `counts`, labelled and unlabelled ones, with one of each kind that there is."""
    labelled, unlabelled = counts
    total = min(total, labelled + unlabelled)
    if not labelled or not unlabelled:
        return [min(labelled, total), min(unlabelled, total)]
    first = min(max(1, round(total * labelled / (labelled + unlabelled))), total - 1)
    return [first, total - first]


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(seed, purpose))
