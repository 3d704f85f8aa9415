"""Plain sentences about what the figures of `meru.reports.geometry` say, each with its number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Figures = Mapping[str, float | None]
MOST = 3
# What counts as striking.
NEARLY_ALL = 0.9
HALF = 0.5
NEARLY_FLAT = 0.05  # relative difference of distances
WEAK = 0.03  # share of the strongest term's gradient
AGAINST = -0.1  # cosine
TIES = 0.01
FEW_DIMENSIONS = 0.1  # share


def hints(figures: Figures, *, loss: Mapping[str, Mapping]) -> list[str]:
    """At most three sentences about what stands out, the most serious first; empty if nothing does.

    Args:
        figures: Of one run.
        loss: Settings of each loss term: its `weight`, and for `entailment` also `kind`, `apex_floor` and `slope`, if
            the model has them.
    """
    found = [*_of_space(figures), *_of_cones(figures, loss), *_of_gradients(figures), *_of_features(figures)]
    return found[:MOST]


def _of_space(figures: Figures) -> Iterator[str]:
    if (share := figures.get("share_at_clip") or 0) >= HALF:
        yield f"{share:.0%} of the features lie at the clip: with one radius, as if the ball were a sphere"
    if (bent := figures.get("bending")) is not None and abs(bent) < NEARLY_FLAT:
        yield f"distances differ from flat ones by {bent:.1%} on average: at these radii the space is almost flat"
    for kind in _kinds(figures, "share_at_limit"):
        if (share := figures[f"share_at_limit/{kind}"] or 0) >= HALF:
            yield f"{share:.0%} of the points of {_plural(kind)} are at the largest radius: they only change direction"


def _of_cones(figures: Figures, loss: Mapping[str, Mapping]) -> Iterator[str]:
    """About the cones of texts, if a term that is on has any."""
    entailment = loss.get("entailment", {})
    in_cones = bool(entailment.get("weight")) and entailment.get("kind", "cone") == "cone"
    if in_cones:
        yield from _of_entailment(figures, entailment)
    if in_cones or loss.get("caption_hierarchy", {}).get("weight"):
        pushed = "; apex_floor pushes apexes outwards there" if in_cones and entailment.get("apex_floor") else ""
        for kind in _kinds(figures, "share_in_dead_radius"):
            if (share := figures[f"share_in_dead_radius/{kind}"] or 0) >= HALF:
                yield (
                    f"{share:.0%} of {_plural(kind)} lie in the dead radius, where the cones' aperture has no "
                    f"gradient{pushed}"
                )


def _of_entailment(figures: Figures, settings: Mapping) -> Iterator[str]:
    """About images in the cones of captions. The figures are those of cones without a floor of the apexes."""
    inside, others = (figures.get(f"share_in_cone/{name}") for name in ("matched", "unmatched"))
    angle, aperture = (figures.get(f"{name}/50") for name in ("exterior_angle/matched", "half_aperture"))
    floor = ", without apex_floor" if settings.get("apex_floor") else ""
    if inside is not None and inside >= NEARLY_ALL:
        slope = settings.get("slope")
        left = f"{slope:g} times the exterior angle" if slope else "0 without gradient"
        where = " if the caption lies beyond the floor (apex_floor)" if floor else ""
        also = "" if others is None else f"; so do {others:.0%} of images of other classes"
        yield f"{inside:.0%} of images lie in their caption's cone, where entailment is {left}{where}{also}"
    elif None not in (inside, angle, aperture) and inside <= 1 - NEARLY_ALL:
        yield (
            f"only {inside:.0%} of images lie in their caption's cone: the exterior angle is {angle:.0f} degrees, the "
            f"half aperture {aperture:.0f} (medians{floor})"
        )


def _of_gradients(figures: Figures) -> Iterator[str]:
    names = [name.split("/") for name in figures if name.startswith("gradient_norm/") and name.endswith("/all")]
    lengths = {parts[1]: figures["/".join(parts)] for parts in names if len(parts) == 3}
    norms = {term: length for term, length in lengths.items() if length is not None}
    strongest = max(norms, key=norms.get, default=None)
    if strongest is None or not norms[strongest] > 0:
        return
    weak = {term: 100 * norm / norms[strongest] for term, norm in norms.items() if norm < WEAK * norms[strongest]}
    if weak:
        shares = ", ".join(f"{term} {share:.2g} %" for term, share in weak.items())
        yield f"gradients that are short beside that of {strongest}: {shares} of its length"
    for term in norms:
        if (cosine := figures.get(f"cosine_to_total/{term}") or 0) < AGAINST:
            yield f"{term} pulls against the whole loss: the cosine of the gradients is {cosine:+.2f}"


def _of_features(figures: Figures) -> Iterator[str]:
    for kind in _kinds(figures, "effective_rank"):
        rank, dimension = (figures.get(f"{name}/{kind}") for name in ("effective_rank", "dimension"))
        dimension = dimension or figures.get("dimension")
        if rank is not None and dimension and rank < FEW_DIMENSIONS * dimension:
            yield f"the features of {_plural(kind)} fill {rank:.1f} of {dimension:.0f} dimensions"
    for direction in _kinds(figures, "share_of_ties"):
        if (share := figures[f"share_of_ties/{direction}"] or 0) > TIES:
            yield f"{share:.1%} of the scores tie ({direction.replace('_', ' ')}): chance decides their order"
    if (share := figures.get("share_of_new_in_old") or 0) >= HALF:
        yield f"{share:.0%} of the unlabelled images of new classes are predicted as an old class"


def _kinds(figures: Figures, family: str) -> list[str]:
    return [name.removeprefix(f"{family}/") for name in figures if name.startswith(f"{family}/")]


def _plural(kind: str) -> str:
    """`part_phrase` → "part phrases"."""
    known = {"tower": "the tower", "projected": "the projection"}
    words = kind.replace("_", " ")
    return known.get(kind) or (f"{words}es" if words.endswith("s") else f"{words}s")
