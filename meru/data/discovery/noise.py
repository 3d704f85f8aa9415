"""Wrong labels among the labelled images of category discovery; evaluation keeps the true ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from meru.data.discovery.splits import DiscoveryData
from meru.data.sampling import derived_seed
from meru.errors import UserError

KINDS = ("symmetric", "nearest")


def with_wrong_labels(
    data: DiscoveryData, *, share: float, kind: str, seed: int, features: Tensor | None = None
) -> DiscoveryData:
    """The same data of which training sees some wrong labels; see `DiscoverySplit.given`.

    A pure function of its arguments. The wrong images of a smaller share are among those of a larger one, with the same
    wrong labels.

    Args:
        data: With at least two old classes.
        share: Labelled training images with a wrong label / labelled training images, in [0, 1]; 0: `data` itself.
        kind: `symmetric`: the wrong label is any other old class; `nearest`: the other old class whose mean of the
            labelled images' `features` is nearest to that of the true class.
        seed: Chooses the images, and the classes of `symmetric`.
        features: Features of all training images, `(n, W)`, for `nearest`.

    Raises:
        UserError: if there is no other class to give.
        ValueError: for another kind, or `nearest` without features.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind}: choose one of {', '.join(KINDS)}")
    if not share:
        return data
    train, generator = data.train, torch.Generator().manual_seed(derived_seed(seed, "label noise"))
    places = train.labelled.nonzero().flatten()
    true = train.labels[places]
    if kind == "nearest":
        if features is None:
            raise ValueError("kind=nearest needs the argument features")
        candidates = true.unique()
    else:
        candidates = torch.arange(data.num_old)
    if len(candidates) < 2:
        raise UserError(
            f"data.label_noise={share}: a wrong label is that of another old class, and only one has "
            f"{'labelled images' if kind == 'nearest' else 'a name'}; set it to 0"
        )
    order = torch.randperm(len(places), generator=generator)
    steps = torch.randint(1, data.num_old, (len(places),), generator=generator)
    wrong = (true + steps) % data.num_old if kind == "symmetric" else nearest_class(features[places], true)[true]
    chosen = order[: round(share * len(places))]
    given = train.labels.clone()
    given[places[chosen]] = wrong[chosen]
    return replace(data, train=replace(train, given=given))


def nearest_class(features: Tensor, labels: Tensor) -> Tensor:
    """The other class whose mean is nearest, for every class of at least two: `(n, W)`, `(n,)` → int64 `(classes,)`.

    Means and Euclidean distances are computed in float64. A class without rows is never the nearest, and has −1.
    """
    classes, own = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64).index_add_(0, own, features.double())
    means = sums / own.bincount()[:, None]
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(float("inf"))
    found = torch.full((int(classes.max()) + 1,), -1)
    found[classes] = classes[distances.argmin(dim=1)]
    return found
