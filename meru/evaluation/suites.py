"""All suites by the name that `scripts/evaluate.py suite=` takes."""

from __future__ import annotations

from meru.evaluation.discovery import classes_found_figure, evaluate_discovery, format_classes_found
from meru.evaluation.entailment import entailment_figure, evaluate_entailment, format_entailment
from meru.evaluation.geometry import evaluate_geometry
from meru.evaluation.hierarchy import evaluate_hierarchy, format_hierarchy, hierarchy_figure
from meru.evaluation.linear_probe import evaluate_linear_probe, format_linear_probe, linear_probe_figure
from meru.evaluation.multilabel import evaluate_multilabel, format_multilabel, multilabel_figure
from meru.evaluation.persons import evaluate_persons, format_persons, persons_figure
from meru.evaluation.pointing import evaluate_pointing, format_pointing, pointing_figure
from meru.evaluation.retrieval import evaluate_retrieval, format_retrieval, retrieval_figure
from meru.evaluation.robustness import evaluate_robustness
from meru.evaluation.suite import DESCRIBED, DISCOVERY, LABEL_SETS, LABELS, Suite, on_captions
from meru.evaluation.words import evaluate_words, format_words, words_figure
from meru.evaluation.zero_shot import evaluate_zero_shot, format_zero_shot, zero_shot_figure
from meru.reports.geometry import format_geometry, geometry_figure
from meru.reports.robustness import format_robustness, robustness_figure

SUITES: dict[str, Suite] = {
    "geometry": Suite(on_captions(evaluate_geometry), format_geometry, geometry_figure),
    "robustness": Suite(
        on_captions(evaluate_robustness, "corruptions", "severities"), format_robustness, robustness_figure
    ),
    "pointing": Suite(evaluate_pointing, format_pointing, pointing_figure),
    "zero_shot": Suite(evaluate_zero_shot, format_zero_shot, zero_shot_figure, LABELS),
    "linear_probe": Suite(evaluate_linear_probe, format_linear_probe, linear_probe_figure, LABELS, reads_text=False),
    "hierarchy": Suite(evaluate_hierarchy, format_hierarchy, hierarchy_figure, LABELS),
    "multilabel": Suite(evaluate_multilabel, format_multilabel, multilabel_figure, LABEL_SETS),
    "retrieval": Suite(evaluate_retrieval, format_retrieval, retrieval_figure),
    "entailment": Suite(evaluate_entailment, format_entailment, entailment_figure),
    "persons": Suite(evaluate_persons, format_persons, persons_figure),
    "discovery": Suite(
        evaluate_discovery,
        format_classes_found,
        classes_found_figure,
        needs=DISCOVERY,
        reads_text=False,
        images="unlabelled images",
    ),
    "words": Suite(evaluate_words, format_words, words_figure, needs=DESCRIBED, images="unlabelled images"),
}
