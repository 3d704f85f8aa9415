"""The names of the figures that a run can give, to check those in an ablation before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from meru.configuration.facts import DIRECTIONS, PERSONS, RANKING
from meru.errors import UserError
from meru.reports.tables import ERRORS

_TREE = (*ERRORS, "jaccard", "precision", "recall")
_OF_CLASSES = (
    *("accuracy@1", "accuracy@5", "class_mean/accuracy@1", "class_mean/accuracy@5", "family/accuracy@1", "images"),
    *(f"hierarchy/{name}" for name in _TREE),
)
_GROUPS = ("all", "old", "new")
_OF_DISCOVERY = (
    *(f"{group}/{name}" for group in _GROUPS for name in ("accuracy", "images")),
    *("all/normalized_mutual_information", "all/adjusted_rand_index", "new_as_old/share", "old_as_new/share"),
)


def figure_names(config: Mapping) -> tuple[str, ...]:
    """All names in the `test.json` of a run; some need data with families, with test images or with known parts.

    Args:
        config: The resolved configuration of the run.
    """
    data = config.get("data") or {}
    if config.get("task") == "discovery":
        names = [f"{row}/{name}" for row in ("discovery", "kmeans", "inductive") for name in _OF_DISCOVERY]
        names += [f"discovery_{kind}/{group}/accuracy" for kind in ("balanced", "v1") for group in _GROUPS]
        names += _of_stages((config.get("discovery") or {}).get("stages") or 1)
        names += ["tree/dendrogram_purity", "feature_tree/dendrogram_purity", "num_classes", "true_num_classes"]
        names += [f"predicted_old/{name}" for name in ("share", "expected_share", "offset")]
        return _with_chance(names)
    target = str((data.get("load") or {}).get("_target_"))
    persons, own = ("identity", "identity_cosine"), not target.startswith("meru.")
    rows = persons if target.startswith(PERSONS) else ("class", "image", *(persons if own else ()))
    metrics = (*RANKING, "queries", "queries_without_match")
    names = [f"{direction}/{row}/{metric}" for direction in DIRECTIONS for row in rows for metric in metrics]
    if "class" in rows:
        names += [f"{row}/{name}" for row in ("zero_shot", "class_captions") for name in _OF_CLASSES]
    parts = ("mean_of_parts", *(data.get("part_words") or {}))
    for row in ("pointing", "box_centre") if (config.get("evaluation") or {}).get("pointing") else ():
        names += [f"{row}/accuracy@1", *(f"{row}/{part}/accuracy@1" for part in parts), f"{row}/mentions"]
    return _with_chance(names)


def _of_stages(stages: int) -> list[str]:
    """The figures at the end of each of several stages in which classes arrive."""
    names = ["forgetting"] if stages > 1 else []
    for stage in range(1, stages + 1 if stages > 1 else 1):
        parts = [*_OF_DISCOVERY, "new_now/accuracy", "classes", *(f"since_{k}/accuracy" for k in range(1, stage + 1))]
        names += [f"stage/{stage}/{name}" for name in (*parts, *(["forgetting"] if stage > 1 else []))]
    return names


def require_figures(wanted: Iterable[str], configs: Sequence[Mapping], *, place: str) -> None:
    """Refuse names that no run of these configurations gives.

    Raises:
        UserError: with the nearest names.
    """
    known = dict.fromkeys(name for config in configs for name in figure_names(config))
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.5) or [*known][:3]
            raise UserError(f"{place}: {name}: these runs have no such figure; the nearest are {', '.join(near)}")


def _with_chance(names: Iterable[str]) -> tuple[str, ...]:
    found = []
    for name in names:
        row, slash, metric = name.rpartition("/")
        found += [name, f"{row}{slash}chance_{metric}"]
    return tuple(found)
