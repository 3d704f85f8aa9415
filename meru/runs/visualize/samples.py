"""Plots of samples of a run's data: the disk, distances, walks and neighbours."""

from __future__ import annotations

from dataclasses import replace

from meru.data.heads import HiddenHeads
from meru.data.texts import read_text
from meru.errors import UserError
from meru.evaluation.disk import draw_disk
from meru.evaluation.neighbours import draw_neighbours, neighbours_of
from meru.evaluation.norms import draw_norms
from meru.evaluation.sample import Sample, Subjects
from meru.evaluation.traversal import Candidates, End, draw_walks, root_of, starts_of
from meru.files import user_path
from meru.reports.attention import save_figure
from meru.runs.visualize.arguments import open_with_data, photograph, place_of, plot_file

DISK, NORMS, NEIGHBOURS, TEXTS = 300, 100, 500, 2000  # images, unless the user gives another number


def disk(
    *,
    run: str,
    split: str = "test",
    count: str = str(DISK),
    projection: str = "tangent",
    root: str | None = None,
    output: str = "disk.png",
) -> str:
    """Save images, captions, classes and families in the Poincaré disk."""
    path = plot_file(output, example="disk.png")
    opened, subjects = open_with_data(run, root)
    sample = _sample(subjects, split, count)
    save_figure(draw_disk(sample, projection=projection, title=f"{opened.name}, {split} split"), path)
    return f"images and texts in the disk: {path}"


def norms(
    *, run: str, split: str = "test", count: str = str(NORMS), root: str | None = None, output: str = "norms.png"
) -> str:
    """Save histograms of the distances from the root."""
    path = plot_file(output, example="norms.png")
    opened, subjects = open_with_data(run, root)
    if not subjects.model.space.has_cones:
        raise UserError(f"run={run}: its points lie on a sphere, where all distances from the origin are 1: {_OTHER}")
    sample = _sample(subjects, split, count)
    save_figure(draw_norms(subjects, sample, title=f"{opened.name}, {split} split"), path)
    return f"distances from the root: {path}"


def traversal(
    *,
    run: str,
    image: str | None = None,
    text: str | None = None,
    other: str | None = None,
    texts: str | None = None,
    general: str = "auto",
    split: str = "test",
    count: str = str(TEXTS),
    root: str | None = None,
    output: str = "traversal.png",
) -> str:
    """Save walks from an image or a text to the root, or to another image, with the texts met on the way."""
    path = plot_file(output, example="traversal.png")
    if other and not (image or text):
        raise UserError(f"other={other} is the end of a walk: name its start, image= or text=")
    if image and text:
        raise UserError(f"image={image} and text=: a walk has one start: give one of them")
    places = {key: place_of(given, key=key) for key, given in (("image", image), ("other", other)) if given}
    lines = _lines(texts) if texts else None
    opened, subjects = open_with_data(run, root)
    candidates = Candidates.of_lines(lines, subjects) if lines else Candidates.of_training(subjects, count=int(count))
    end = root_of(subjects.model.space, candidates)
    if other:
        end = End.of_image(subjects, photograph(places["other"]))
    if image:
        starts = [End.of_image(subjects, photograph(places["image"]))]
    else:
        starts = [End.of_text(subjects, text)] if text else starts_of(_sample(subjects, split, "3"))
    figure = draw_walks(subjects.model.space, [(start, end) for start in starts], candidates, general=general)
    save_figure(figure, path)
    return f"walks of {opened.name}: {path}"


def neighbours(
    *,
    run: str,
    image: str | None = None,
    text: str | None = None,
    split: str = "test",
    count: str = str(NEIGHBOURS),
    hide_heads: str | None = None,
    root: str | None = None,
    output: str = "neighbours.png",
) -> str:
    """Save the nearest images and captions of an image, a text, or some images of the data.

    With `hide_heads`, `blur` or `cover`, heads are hidden in the images that are drawn, not in those that are embedded.
    """
    path = plot_file(output, example="neighbours.png")
    place = place_of(image) if image else None
    opened, subjects = open_with_data(run, root)
    sample = _sample(subjects, split, count)
    if hide_heads:
        heads = HiddenHeads(subjects.section, persons=subjects.data.class_kind == "identity")
        sample = replace(sample, texts=replace(sample.texts, records=heads.records(sample.records, hide_heads)))
    title = f"{opened.name}: nearest of {len(sample.records)} images of the {split} split, and of their captions"
    if not place and not text:
        save_figure(draw_neighbours(sample, subjects.data, title=title), path)
        return f"neighbours: {path}"
    queries = [End.of_image(subjects, photograph(place))] if place else []
    queries += [End.of_text(subjects, text)] if text else []
    found = [
        neighbours_of(sample, each.point, data=subjects.data, image=each.image, text=each.text) for each in queries
    ]
    save_figure(draw_neighbours(sample, subjects.data, queries=found, title=title), path)
    return f"neighbours: {path}"


_OTHER = "name a run of a hyperbolic model"


def _sample(subjects: Subjects, split: str, count: str) -> Sample:
    return subjects.sample(split, int(count))


def _lines(texts: str) -> list[str]:
    path = user_path(texts)
    text = read_text(path, advice="convert it to UTF-8", needed="")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"texts={texts} holds no text: write one text a line")
    return lines
