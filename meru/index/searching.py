"""Rankings of an index's images for sentences and images, as text, table and contact sheet: `scripts/search.py`."""

from __future__ import annotations

import csv
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from meru.data.images import OR_SKIP, read_image
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import output_file, user_path, write_text
from meru.index.asking import Asker
from meru.index.building import NONE, Wanted, build_index
from meru.index.folder import Index, open_index
from meru.reports.attention import save_figure
from meru.reports.contact_sheet import LONGEST_LIST, Shown, contact_sheet, rank_list

log = logging.getLogger("meru")

MOST_IMAGES = 200  # in a picture: drawing more takes minutes, and matplotlib limits its height
ENDINGS = (".png", ".svg", ".csv", ".json")


@dataclass(frozen=True)
class Query:
    """A sentence or an image to search for.

    Attributes:
        text: The sentence; None for an image.
        image: The file; None for a sentence.
        label: The label that similar images should have; None if it is not known.
    """

    text: str | None = None
    image: Path | None = None
    label: int | None = None

    @property
    def name(self) -> str:
        """What rankings call it."""
        return self.text if self.text is not None else str(self.image)


@dataclass(frozen=True)
class Hit:
    """An image of a ranking.

    Attributes:
        place: In the index.
        image: Its path inside the folder of images.
        score: Similarity; larger is more similar.
        match: Whether it has the label of the query; None if one of them is not known.
    """

    place: int
    image: str
    score: float
    match: bool | None


def search_index(index: Index, queries: Sequence[Query], *, top: int) -> list[list[Hit]]:
    """A ranking for every query, best first.

    Raises:
        UserError: if the model has no text tower and there is a sentence, or an image cannot be read.
    """
    asker = Asker(index)
    points = torch.stack([_point(asker, query) for query in queries])
    scores, places = index.search(points, top)
    labels = index.labels
    return [
        [
            Hit(place, index.names[place], score, _match(query.label, labels[place] if labels else None))
            for score, place in zip(*each, strict=True)
        ]
        for query, *each in zip(queries, scores.tolist(), places.tolist(), strict=True)
    ]


def _point(asker: Asker, query: Query) -> torch.Tensor:
    if query.text is not None:
        point = asker.embed_text(query.text)
        if cut := asker.count_cut(query.text):
            log.warning("'%.60s…': its last %d words are beyond what the model reads", query.text, cut)
        return point
    return asker.embed_image(query.image)


def _match(wanted: int | None, found: int | None) -> bool | None:
    return None if wanted is None or found is None else wanted == found


def queries_of(index: Index, *, text: str | None, image: str | None, queries: str | None) -> list[Query]:
    """The queries that a user gives: a sentence, an image, or a file of sentences, one a line.

    A sentence that is a caption of the annotation, and an image of the index, have their label.

    Raises:
        UserError: unless exactly one is given, or if a file cannot be read or is empty.
    """
    given = [name for name, value in (("text", text), ("image", image), ("queries", queries)) if value is not None]
    if len(given) != 1:
        what = f"{' and '.join(given)} together" if given else "nothing to search for"
        raise UserError(f"{what}: give a sentence, image=<file> or queries=<file of sentences>")
    if image is not None:
        path = user_path(image)
        if not path.is_file():
            raise UserError(f"image={image}: there is no such file")
        return [Query(image=path, label=_label_of_image(index, path))]
    if text is not None:
        return [Query(text, label=index.label_of_text(text))]
    lines = [line.strip() for line in read_text(user_path(queries), needed="").splitlines()]
    found = [Query(line, label=index.label_of_text(line)) for line in lines if line]
    if not found:
        raise UserError(f"queries={queries} holds no text: write one sentence a line")
    return found


def _label_of_image(index: Index, path: Path) -> int | None:
    root = Path(index.facts.images)
    if index.labels is None or not path.is_relative_to(root):
        return None
    name = path.relative_to(root).as_posix()
    return index.labels[index.names.index(name)] if name in index.names else None


def temporary_index(run: str, images: str, *, workers: int) -> tempfile.TemporaryDirectory:
    """An index of a folder for one search, in a folder that is removed after a `with`.

    Raises:
        UserError: as `build_index`.
    """
    folder = tempfile.TemporaryDirectory(prefix="meru_index_")
    try:
        wanted = Wanted(run, images, output=folder.name, texts=NONE, labels=NONE, workers=workers, lasting=False)
        build_index(wanted)
    except BaseException:
        folder.cleanup()
        raise
    return folder


def search(
    *, text: str | None = None, image: str | None = None, queries: str | None = None, index: str | None = None,
    run: str | None = None, images: str | None = None, top: int = 10, output: str | None = None, workers: int = 2,
) -> str:  # fmt: skip
    """Search an index, or a folder of images that is embedded for this search only; returns the rankings as text.

    Args:
        text, image, queries: As for `queries_of`.
        index: An index folder.
        run, images: Instead of it, a source of a model and a folder of images.
        top: Length of the rankings.
        output: A file for the images found (.png, .svg), or for the rankings (.csv, .json); None: none.
        workers: Processes that read images.

    Raises:
        UserError: if a file cannot be read or written, or the arguments do not go together.
    """
    file = _output(output)
    of_folder = run is not None or images is not None
    if (index is not None) == of_folder or (of_folder and (run is None or images is None)):
        raise UserError("give index=<index folder>, or run=<run folder> images=<folder>")
    if index is not None:
        return _answer(open_index(index), text=text, image=image, queries=queries, top=top, file=file)
    if not user_path(images).is_dir():
        raise UserError(f"images={images}: there is no such folder")
    with temporary_index(run, images, workers=workers) as folder:
        return _answer(open_index(folder), text=text, image=image, queries=queries, top=top, file=file)


def _answer(index: Index, *, top: int, file: Path | None, **given: str | None) -> str:
    queries = queries_of(index, **given)
    rankings = search_index(index, queries, top=top)
    pairs = zip(queries, rankings, strict=True)
    parts = [format_ranking(query, hits, titled=len(queries) > 1) for query, hits in pairs]
    if index.facts.kind != "exact":
        parts.append(f"{index.facts.kind} finds {100 * index.facts.recall:.1f} % of the 10 most similar images")
    if file:
        _save(index, queries, rankings, file)
        parts.append(f"written: {file}")
    return "\n".join(parts)


def _output(output: str | None) -> Path | None:
    if output is None:
        return None
    ending = Path(output).suffix.lower()
    return output_file(output, example=f"hits{ending if ending in ENDINGS else ENDINGS[0]}")


def format_ranking(query: Query, hits: Sequence[Hit], *, titled: bool = False) -> str:
    """One line an image: rank, score, whether it has the label of the query, and the path inside the folder."""
    marks = {True: "  ✓", False: "  ✗", None: ""}
    # A name may hold line ends.
    names = ("".join(each if each.isprintable() else ascii(each)[1:-1] for each in hit.image) for hit in hits)
    lines = (
        f"{rank:>4}  {round(hit.score, 3) + 0.0:8.3f}{marks[hit.match]}  {name}"
        for rank, (hit, name) in enumerate(zip(hits, names, strict=True), 1)
    )
    return "\n".join([*([query.name] if titled else []), "         score  image", *lines])


def _save(index: Index, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]], file: Path) -> None:
    rows = [
        {"query": query.name, "rank": rank, "score": hit.score, "image": hit.image, "match": hit.match}
        for query, hits in zip(queries, rankings, strict=True)
        for rank, hit in enumerate(hits, start=1)
    ]
    if file.suffix.lower() == ".json":
        write_text(file, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    elif file.suffix.lower() == ".csv":
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({**row, "match": {True: "yes", False: "no", None: ""}[row["match"]]} for row in rows)
        write_text(file, text.getvalue())
    else:
        _save_picture(index, queries, rankings, file)


def _save_picture(index: Index, queries: Sequence[Query], rankings: Sequence[Sequence[Hit]], file: Path) -> None:
    images, rows = (MOST_IMAGES, 1) if len(queries) == 1 else (LONGEST_LIST, MOST_IMAGES // LONGEST_LIST)
    lists = [
        [_shown(index, rank, hit) for rank, hit in enumerate(hits[:images], start=1)] for hits in rankings[:rows]
    ]
    if len(queries) > rows or len(rankings[0]) > images:
        told = "" if len(queries) == 1 else f" of {len(lists)} of {len(queries)} queries"
        log.warning("the picture shows %d images%s; for all of them, name a .csv or .json file", len(lists[0]), told)
    if len(queries) == 1:
        save_figure(contact_sheet(lists[0], title=queries[0].name, query=_picture(queries[0])), file)
    else:
        save_figure(rank_list([query.name for query in queries[:rows]], lists), file)


def _shown(index: Index, rank: int, hit: Hit) -> Shown:
    try:
        picture = read_image(index.path(hit.place))
    except UserError:  # it has gone since it was indexed
        picture = None
    return Shown(picture, f"{rank}. {Path(hit.image).name}", f"{hit.score:.3f}", hit.match)


def _picture(query: Query) -> torch.Tensor | None:
    if query.image is None:
        return None
    try:
        return read_image(query.image)
    except UserError as error:
        raise UserError(str(error).removesuffix(OR_SKIP), exit_code=error.exit_code) from None
