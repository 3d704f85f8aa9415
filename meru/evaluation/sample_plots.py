"""The plots of `evaluation.figures` that are drawn of a sample, for a run that is being trained or has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure

from meru.evaluation.disk import draw_disk
from meru.evaluation.neighbours import draw_neighbours
from meru.evaluation.norms import draw_norms
from meru.evaluation.sample import Sample, Subjects
from meru.evaluation.traversal import Candidates, draw_walks, root_of, starts_of
from meru.optional_part import optional

IMAGES, TEXTS = 200, 1000  # images of the sample, and training images whose captions may be met on a walk


def sample_plots(names: Sequence[str], subjects: Subjects, *, split: str, title: str) -> dict[str, Figure]:
    """Draw plots of at most 200 images; one that fails or that the space has no use for is left out.

    Args:
        names: Of `PLOTS`; others are ignored.
        subjects: The model, whose mode is afterwards as before, and its data.
        split: A split with images.
        title: Written above each.
    """
    wanted = [name for name in names if name in PLOTS and (subjects.model.space.has_cones or name != "norms")]
    if not wanted:
        return {}
    drawn = {}
    training = subjects.model.training
    # Loaders draw random numbers; with and without plots, training must go on alike.
    with torch.random.fork_rng(devices=[]):
        subjects.model.eval()
        try:
            sample = subjects.sample(split, IMAGES)
            for name in wanted:
                with optional(f"the plot {name}"):
                    drawn[name] = PLOTS[name](subjects, sample, title)
        finally:
            subjects.model.train(training)
    return drawn


def _walks(subjects: Subjects, sample: Sample, title: str) -> Figure:
    candidates = Candidates.of_training(subjects, count=TEXTS)
    end = root_of(sample.space, candidates)
    walks = [(start, end) for start in starts_of(sample)]
    return draw_walks(sample.space, walks, candidates, title=f"From specific to general: {title}")


PLOTS: dict[str, Callable[[Subjects, Sample, str], Figure]] = {
    "disk": lambda subjects, sample, title: draw_disk(sample, title=title),
    "norms": lambda subjects, sample, title: draw_norms(subjects, sample, degraded=False, title=title),
    "traversal": _walks,
    "neighbours": lambda subjects, sample, title: draw_neighbours(sample, subjects.data, title=title),
}
