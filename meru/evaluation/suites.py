"""All suites by the name that `scripts/evaluate.py suite=` takes."""

from __future__ import annotations

from meru.evaluation.geometry import evaluate_geometry
from meru.evaluation.robustness import evaluate_robustness, format_robustness, robustness_figure
from meru.evaluation.suite import Suite, on_captions
from meru.reports.geometry import format_geometry, geometry_figure

SUITES: dict[str, Suite] = {
    "geometry": Suite(on_captions(evaluate_geometry), format_geometry, geometry_figure),
    "robustness": Suite(on_captions(evaluate_robustness), format_robustness, robustness_figure),
}
