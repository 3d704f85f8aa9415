"""How far wrong classes of zero-shot classification are from the right ones in a hierarchy of classes.

The hierarchy is a list of children and parents, `data.parents`, or the families of the classes. Figures are those of
`meru.metrics.class_hierarchy`, as means over images; chance is a class drawn at random.

    hierarchy/tree_induced_error, lowest_common_ancestor   in edges; lower is better
    hierarchy/jaccard, precision, recall                   shares
    hierarchy/ancestors_only/…                             without the class itself, as HyCoCLIP's published figures
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from meru.data.families import families_by_name
from meru.data.labelled import LabelledData
from meru.data.parents import read_parents
from meru.errors import UserError
from meru.evaluation.suite import Subject
from meru.evaluation.zero_shot import embed_labelled
from meru.metrics.class_graph import graph_measures
from meru.metrics.class_hierarchy import expected_measures, family_paths, tree_measures
from meru.metrics.zero_shot import zero_shot_metrics
from meru.reports.attention import printable
from meru.reports.bars import draw_bars

ERRORS = {"tree-induced error": "tree_induced_error", "lowest common ancestor": "lowest_common_ancestor"}
SHARES = {"Jaccard": "jaccard", "precision": "precision", "recall": "recall"}
ONLY, PUBLISHED = "ancestors_only", {"LCA": "lowest_common_ancestor", **SHARES}


def evaluate_hierarchy(subject: Subject) -> dict[str, float | None]:
    """The figures above, and the accuracy of the same choice of a class.

    Raises:
        UserError: if there is neither a list of parents nor families, or the list does not fit the classes.
    """
    measures = _measures(subject.data, subject.section)
    images, classes = embed_labelled(subject)
    compared = {"labels": images["class_index"], "similarity": subject.model.similarity}
    figures = expected_measures(images["embeddings"], classes, measures=measures, **compared)
    accuracy = zero_shot_metrics(images["embeddings"], classes, ks=(1,), **compared)
    return {f"hierarchy/{name}": figure for name, figure in figures.items()} | {
        f"zero_shot/{name}": figure for name, figure in accuracy.items()
    }


def _measures(data: LabelledData, section: Mapping) -> dict[str, Tensor]:
    """The measures by the list of parents, else by the families of the files or of `data.families`."""
    if parents := section.get("parents"):
        return graph_measures(*read_parents(Path(parents), keys=data.class_keys, names=data.class_names))
    families = data.families or families_by_name(data.class_names, section.get("families"))
    if families is None:
        raise UserError(
            "suite=hierarchy needs a hierarchy of the classes: data.parents=<file>, a CSV with lines child,parent or "
            "WordNet's wordnet.is_a.txt; for classes whose last word is their family, data.families=last_word"
        )
    return tree_measures(family_paths(families))


def format_hierarchy(figures: Mapping[str, float | None], title: str) -> str:
    """A line a measure, with its chance level."""
    lines = [f"{title}: classes by their place in the hierarchy (chance level)"]
    for label, name in (ERRORS | SHARES).items():
        figure, chance = figures[f"hierarchy/{name}"], figures[f"hierarchy/chance_{name}"]
        better = "edges, lower is better" if name in ERRORS.values() else "share"
        lines.append(f"{label:<24}{figure:>7.3f} ({chance:.3f})  {better}")
    only = (f"{label} {figures[f'hierarchy/{ONLY}/{name}']:.3f}" for label, name in PUBLISHED.items())
    lines.append(f"ancestors only, as HyCoCLIP counts: {', '.join(only)}")
    accuracy, chance = figures["zero_shot/accuracy@1"], figures["zero_shot/chance_accuracy@1"]
    return "\n".join([*lines, f"{'top-1':<24}{accuracy:>7.3f} ({chance:.3f})  share"])


def hierarchy_figure(figures: Mapping[str, float | None], title: str = "") -> Figure:
    """Bars of the shares, and bars of the errors in edges beside them."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    if title:
        figure.suptitle(printable(title, width=80), fontsize=10, parse_math=False)
    shares, errors = figure.subplots(1, 2)
    draw_bars(shares, figures, rows={"hierarchy": "hierarchy"}, columns=SHARES)
    heights = [[figures[f"hierarchy/{start}{name}"] for name in ERRORS.values()] for start in ("", "chance_")]
    errors.bar(list(ERRORS), heights[0], width=0.5)
    errors.plot(list(ERRORS), heights[1], color="black", marker="_", markersize=40, linestyle="none")
    errors.set_ylabel("edges (line: chance)")
    errors.set_ylim(0, None)
    return figure
