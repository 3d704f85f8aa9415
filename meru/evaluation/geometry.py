"""Geometry of a trained model's embeddings: where points lie, and how much a loss term can still do there.

Figures of an image–text model (`suite=geometry`); `<kind>` is `image`, `caption`, or another kind of text. Quantiles
end in `/5`, `/50` and `/95`. Matched pairs are captions with their own image, unmatched ones captions with an image of
another class.

    radius/<kind>/50                    distance from the origin
    angle/matched/50, …/unmatched/50    angle at the origin between caption and image, degrees
    exterior_angle/matched/50           angle at the caption between the continued ray from the origin and the image
    half_aperture/50                    half aperture of the captions' cones, with η of `across_aperture`, degrees
    share_in_cone/matched               share of images inside the cone of a caption: the published cone, without
                                        `apex_floor`, also for a kind of entailment that has no cones
    share_in_dead_radius/<kind>         share so near the origin that the half aperture has its largest value
    share_at_limit/<kind>               share at the largest radius that the space allows
    share_of_ties/text_to_image         share of scores of a query that equal another of its scores, among the images or
                                        among different captions
    effective_rank/<kind>               dimensions that the features fill, of `dimension`
    modality_gap, alignment, uniformity/<kind>     see `meru.metrics.geometry`
    curvature                           c
    curved_radius/<kind>                √c · median radius: below about 0.5, the space is almost flat there
    bending                             mean relative difference of distances from flat ones, unmatched pairs

Figures of category discovery: see `discovery_geometry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meru.errors import UserError
from meru.evaluation.classes import read_features
from meru.evaluation.image_text import BatchTokenizer, embed_captions, embed_images
from meru.geometry import poincare
from meru.geometry.spaces import Space, Sphere
from meru.metrics.geometry import alignment, angles, bending, effective_rank, modality_gap, quantiles, tied, uniformity
from meru.metrics.retrieval import score_chunks

Figures = dict[str, float | None]
PAIRED = 2048  # most points of which all pairs are compared


@torch.no_grad()
def evaluate_geometry(
    model: nn.Module,
    batches: Callable[[None], Iterable[dict[str, Tensor]]],
    *,
    captions: Sequence[Sequence[str]],
    tokenizer: BatchTokenizer,
    device: torch.device,
    class_kind: str = "class",
    captions_per_image: int | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> Figures:
    """Figures of an image–text model on one split; see the module.

    Args:
        model: Has `embed_image`, `embed_text`, `similarity` and `space`; in evaluation mode.
        batches: Called with None, gives the images of the split in order.
        captions: Captions of every record of the split, by its `image_index`.
        tokenizer: Captions → padded token ids.
        device: The model's device.
        class_kind: Unused: classes and identities are treated alike.
        captions_per_image: Use only this many captions of each image, the first ones; None: all.
        texts: Other texts by kind, such as phrases about parts; kinds without any text are left out.
    """
    images = embed_images(model, batches(None), device=device)
    of_image = [captions[record][:captions_per_image] for record in images["image_index"].tolist()]
    own = torch.tensor([row for row, some in enumerate(of_image) for _ in some], device=device)
    embed = {"tokenizer": tokenizer, "device": device}
    every = [caption for some in of_image for caption in some]
    points = {
        "image": images["embeddings"],
        "caption": embed_captions(model, every, **embed),
        **{kind: embed_captions(model, some, **embed) for kind, some in (texts or {}).items() if len(some)},
    }
    other = unmatched(own, images["class_index"])
    space, figures = model.space, _of_points(model.space, points)
    tangents = {kind: tangent_vectors(space, points[kind]) for kind in ("image", "caption")}
    image, caption = tangents["image"], tangents["caption"]
    figures |= _quantiles("angle/matched", angles(caption, image[own]))
    figures |= _quantiles("angle/unmatched", angles(caption, image[other])[other != own])
    if space.has_cones:
        figures |= _of_cones(model, points, own, other)
    figures["modality_gap"] = modality_gap(image, caption)
    figures["alignment"] = alignment(caption, image[own])
    if space.curved:
        apart = other != own
        pairs = points["caption"][apart], points["image"][other[apart]]
        distances = space.distance(*pairs)
        figures["bending"] = bending(distances, caption[apart], image[other[apart]]) if len(distances) else None
    # A caption that two images share would tie with itself.
    different = [*{caption: row for row, caption in enumerate(every)}.values()]
    queries_and_gallery = {
        "text_to_image": (points["caption"], points["image"]),
        "image_to_text": (points["image"], points["caption"][different]),
    }
    for name, (queries, gallery) in queries_and_gallery.items():
        chunks = score_chunks(queries, gallery, similarity=model.similarity, chunk_size=256)
        figures[f"share_of_ties/{name}"] = torch.cat([tied(scores) for _, scores in chunks]).mean().item()
    return figures


def unmatched(own: Tensor, classes: Tensor) -> Tensor:
    """For every caption, an image of another class, always the same: the next one from the middle of the split on.

    Args:
        own: Row of each caption's image, int64 `(m,)`.
        classes: Class of each image, int64 `(n,)`.

    Returns:
        Rows, int64 `(m,)`; the caption's own image if all images are of one class.
    """
    images = len(classes)
    rows = torch.arange(images, device=classes.device)
    found, missing = rows.clone(), torch.ones_like(rows, dtype=torch.bool)
    for step in range(images):
        candidate = (rows + images // 2 + step) % images
        fits = missing & (classes[candidate] != classes)
        found = torch.where(fits, candidate, found)
        missing = missing & ~fits
        if not missing.any():
            break
    return found[own]


def spread_out(length: int) -> Tensor:
    """At most `PAIRED` indices, int64, from the first to the last of `length`."""
    return torch.linspace(0, length - 1, min(length, PAIRED), dtype=torch.float64).round().long()


def tangent_vectors(space: Space, points: Tensor) -> Tensor:
    """Vectors `(…, D)` in the points' directions with their distance from the origin as length."""
    return F.normalize(points, dim=-1) * space.radius(points)[..., None]


def _of_points(space: Space, points: Mapping[str, Tensor]) -> Figures:
    """Figures of the points of each kind alone."""
    figures: Figures = {"dimension": float(points["image"].shape[1])}
    if space.curved:
        figures["curvature"] = float(space.curvature)
    for kind, some in points.items():
        if space.has_cones:  # on a sphere every radius is 1
            figures |= _quantiles(f"radius/{kind}", space.radius(some))
        if space.curved:
            figures[f"curved_radius/{kind}"] = figures["curvature"] ** 0.5 * figures[f"radius/{kind}/50"]
            figures[f"share_at_limit/{kind}"] = space.at_limit(some).item()
        vectors = tangent_vectors(space, some)
        figures[f"effective_rank/{kind}"] = effective_rank(vectors)
        figures[f"uniformity/{kind}"] = uniformity(vectors[spread_out(len(vectors))])
    return figures


def _of_cones(model: nn.Module, points: Mapping[str, Tensor], own: Tensor, other: Tensor) -> Figures:
    """Figures of the published cones, without a floor of the apexes, of captions around images."""
    space, settings = model.space, getattr(model, "loss", {}).get("entailment", {})
    minimum_radius = settings.get("minimum_radius", 0.1)
    factor = settings.get("across_aperture", 1.0)  # only models with parts have the key
    aperture = factor * space.half_aperture(points["caption"], minimum_radius)
    figures = _quantiles("half_aperture", torch.rad2deg(aperture))
    apart = other != own
    for name, image, kept in (("matched", own, apart | ~apart), ("unmatched", other, apart)):
        exterior = space.exterior_angle(points["caption"], points["image"][image])[kept]
        figures |= _quantiles(f"exterior_angle/{name}", torch.rad2deg(exterior))
        figures[f"share_in_cone/{name}"] = _share(exterior <= aperture[kept])
    for kind, some in points.items():
        if kind != "image":
            figures[f"share_in_dead_radius/{kind}"] = _share(space.share_of_dead_radius(some, minimum_radius) < 1)
    return figures


@torch.no_grad()
def discovery_geometry(
    model: nn.Module, batches: Iterable[dict[str, Tensor]], *, num_old: int, device: torch.device
) -> Figures:
    """Figures of a model that discovers classes, by the true classes of the images.

        norm/projected/50               length of the projected features
        feature_scale                   factor on the features before they are clipped
        clip, share_at_clip             longest length that enters the ball, and the share of scaled features beyond it
        radius/image/50                 distance from the origin in the ball
        curvature, curved_radius/image, bending       as for image–text models, for pairs of different classes
        distance/within_class, …/between_classes      mean distance, in the ball or else angle in degrees
        share_of_new_in_old             share of unlabelled images of new classes that are predicted as an old class
        share_of_old_in_new             share of unlabelled images of old classes that are predicted as a new class
        effective_rank/tower, …/projected, dimension/tower, …/projected
        alignment, uniformity/projected               directions of projected features; aligned are those of one class

    Args:
        model: Has `features`, `projection` and `class_logits`, and with a ball also `lift`, `curvature`, `clip` and,
            if it scales features, `feature_scale`; in evaluation mode.
        batches: From `discovery_evaluation_loader`.
        num_old: Number of old classes, which come first.
        device: The model's device.

    Raises:
        UserError: if no image can be decoded.
    """
    read = read_features(model, batches, device=device)
    if not read:
        raise UserError("no image can be decoded: restore the images")
    projected, label = read["projected"] * read["projected_length"][:, None], read["label"]
    figures = _quantiles("norm/projected", read["projected_length"])
    for kind, vectors in (("tower", read["features"]), ("projected", projected)):
        figures[f"dimension/{kind}"] = float(vectors.shape[1])
        figures[f"effective_rank/{kind}"] = effective_rank(vectors)
    sample = spread_out(len(projected))
    figures["uniformity/projected"] = uniformity(projected[sample])
    first, second = torch.triu_indices(len(sample), len(sample), offset=1)
    same = label[sample][first] == label[sample][second]
    directions = F.normalize(projected[sample].double(), dim=-1)
    squares = torch.pdist(directions).square()
    figures["alignment"] = squares[same].mean().item() if same.any() else None
    if hasattr(model, "lift"):
        figures |= _of_ball(model, projected, sample, same)
    else:
        apart = torch.rad2deg(Sphere().distance(directions[first], directions[second]))
        figures |= _by_class(apart, same)
    unlabelled, old = ~read["labelled"], label < num_old
    figures["share_of_new_in_old"] = _share(read["prediction"][unlabelled & ~old] < num_old)
    figures["share_of_old_in_new"] = _share(read["prediction"][unlabelled & old] >= num_old)
    return figures


def _of_ball(model: nn.Module, projected: Tensor, sample: Tensor, same: Tensor) -> Figures:
    """Figures of projected features `(n, D)` in a model's ball; `same` says which pairs of the sample share a class."""
    points, curvature = model.lift(projected), float(model.curvature)
    radius = poincare.distance_to_origin(points, curvature)
    figures = {"curvature": curvature, **_quantiles("radius/image", radius)}
    figures["curved_radius/image"] = curvature**0.5 * figures["radius/image/50"]
    if clip := getattr(model, "clip", None):
        scale = getattr(model, "feature_scale", 1.0)
        figures |= {"feature_scale": float(scale), "clip": float(clip)}
        figures["share_at_clip"] = _share(scale * projected.norm(dim=-1) > clip)
    some = points[sample]
    first, second = torch.triu_indices(len(some), len(some), offset=1)
    distances = poincare.pairwise_distance(some, some, curvature)[first, second]
    flat = F.normalize(some, dim=-1) * radius[sample][:, None]
    pairs = (~same).nonzero().flatten()
    pairs = pairs[spread_out(len(pairs))]
    if len(pairs):
        figures["bending"] = bending(distances[pairs], flat[first[pairs]], flat[second[pairs]])
    return figures | _by_class(distances, same)


def _by_class(distances: Tensor, same: Tensor) -> Figures:
    """Mean distances of pairs within a class and between classes; None without such pairs."""
    kinds = {"within_class": distances[same], "between_classes": distances[~same]}
    return {f"distance/{name}": some.double().mean().item() if len(some) else None for name, some in kinds.items()}


def _quantiles(name: str, values: Tensor) -> Figures:
    """Quantiles by name; none without values."""
    return {f"{name}/{percent}": value for percent, value in quantiles(values).items()} if len(values) else {}


def _share(condition: Tensor) -> float | None:
    """The share of True; None without values."""
    return condition.double().mean().item() if len(condition) else None
