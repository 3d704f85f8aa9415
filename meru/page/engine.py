"""What the page asks of an index and its model: searches, the way to the root, places in the disk, attention."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meru.errors import UserError
from meru.metrics.traversal import ROOT, walk
from meru.page.answers import Refused
from meru.page.decoding import Decoded
from meru.page.reading import Question, milliseconds_since
from meru.page.thumbnails import image_of

CAPTIONS = 20_000  # that a walk may meet; more are thinned out evenly
STEPS = 25  # of a walk
LANDMARKS, NEAREST = 9, 32  # cones are slow to test: only those of the nearest captions at some points of the way
CLOUD = 600  # images drawn in the disk
REMEMBERED = 128  # queries whose points and walks are kept, so that the slider costs only the search
SUGGESTIONS, SUGGESTED_CHARACTERS = 8, 100
ENOUGH_TEXTS = 1_000  # that a word which occurs in none of them is worth telling
EQUAL = 1e-3  # relative difference of the radii of images that all lie equally far from the root
UNTRAINED = "this model does not train attention: the similarities of words and patches are shown"


@dataclass(frozen=True)
class Start:
    """A query as it is before it is moved towards the root.

    Attributes:
        point: `(D,)`.
        words: Of a text, as the tokenizer sees them.
        cut: Words beyond the model's context.
        unknown: Words that occur in none of the index's texts.
        label: What the query is known to show, as a number; None if nothing is known.
        path: The way to the root, as the page draws it.
    """

    point: Tensor
    words: list[str]
    cut: int
    unknown: list[str]
    label: int | None
    path: dict[str, Any]


class Engine:
    """An index with its model. All methods may be called from several threads.

    Args:
        identifier: By which requests name the index.
        index: An opened index, `meru.index.folder.Index`.
        asker: What embeds queries for it, `meru.index.asking.Asker`.
    """

    def __init__(self, identifier: str, index: Any, asker: Any):
        self.identifier, self.index, self.asker = identifier, index, asker
        self.names = index.names  # which an index puts together anew each time
        thin = _evenly(len(index.texts), CAPTIONS)
        self._captions = [(index.texts[place], index.text_kinds[place]) for place in thin]
        self._caption_points = index.text_points[thin] if thin else index.root.new_zeros(0, len(index.root))
        self._caption_radii = index.space.radius(self._caption_points)
        sentences = [place for place, kind in enumerate(index.text_kinds) if kind == "caption"]
        self._suggestions = suggestions(_suggestible(index, sentences)) if index.facts.has_text else []
        self._enough = len(sentences) >= ENOUGH_TEXTS
        self._known_words = {word for place in sentences for word in _words(index.texts[place])}
        self._starts = OrderedDict[object, Start]()
        self._turn = threading.Lock()
        self._cloud: list[dict[str, Any]] | None = None
        self._root_place = self._places(index.root[None])[0]
        radii = index.space.radius(index.points(_evenly(len(index), CLOUD)))
        # Such a model ranks by direction only, which a way straight to the root does not change.
        equal = bool(radii.max() - radii.min() <= EQUAL * radii.max())
        self._equal_radii = equal and index.space.has_cones and len(index) > 1

    def describe(self) -> dict[str, Any]:
        """The entry of this index in the state of the page."""
        facts = self.index.facts
        return {
            "id": self.identifier,
            "name": facts.name,
            "model": facts.model,
            "space": facts.space,
            "curvature": facts.curvature,
            "images": len(self.index),
            "has_text": facts.has_text,
            "attends": facts.attends,
            "labels": facts.class_kind if self.index.labels is not None else None,
            "clusters": self.index.clusters is not None,
            "suggestions": self._suggestions,
            "equal_radii": self._equal_radii,
        }

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Load the model and what the index reads at its first search, so that the first query need not wait.

        Raises:
            UserError: if it is not the model that the index was made with.
        """
        self.asker.load()
        self.index.search(self.index.root[None], 1)
        if self.index.facts.has_text:
            self.asker.embed_text("warm")

    @torch.inference_mode()
    def search(self, asked: Question, upload: Decoded | None = None) -> dict[str, Any]:
        """The answer to a search; `upload` is the image that the question names.

        Raises:
            Refused: if the index has no such image, or its model embeds no texts.
        """
        began = time.perf_counter()
        start = self._start(asked, upload)
        embedding = milliseconds_since(began)
        began, space = time.perf_counter(), self.index.space
        point = start.point if asked.generality == 0 else space.geodesic(start.point, self.index.root, asked.generality)
        scores, places = self.index.search(point[None], min(asked.top, len(self.index)))
        found = places[0].tolist()
        searching = milliseconds_since(began)
        answer = {
            "query": {
                "words": start.words,
                "radius": space.radius(point).item(),
                "place": self._places(point[None])[0],
                "cut": start.cut,
                "unknown": start.unknown,
                "label": self._label_name(start.label),
            },
            "results": self._results(found, scores[0].tolist(), start.label),
            "path": start.path,
            "milliseconds": {"embed": embedding, "search": searching},
        }
        if asked.cloud:
            answer["cloud"] = self._sample()
        return answer

    @torch.inference_mode()
    def attention(self, text: str, *, image: int | None, upload: Decoded | None) -> dict[str, Any]:
        """Where each word of a text looks in an image of the index, or in an upload.

        Only the order of a word's values has a meaning, so those of each word are first brought to [0, 1]. A weight
        says how much larger that is than the mean of all words of the text, in units of the largest such weight of the
        text. A text of one word has no others to be compared with: its values are shown.

        Raises:
            Refused: if there is no such image, or the model has no patches or words.
        """
        if not self.index.facts.has_text:
            raise Refused(422, f"{self.index.facts.name} embeds no texts, so its words look nowhere")
        pixels = image_of(self.index, image) if upload is None else upload.image
        with _query_refused():
            words, weights = self.asker.word_attention(pixels, text)
        low, high = weights.amin((1, 2), keepdim=True), weights.amax((1, 2), keepdim=True)
        relative = (weights - low) / (high - low).clamp_min(1e-12)
        if len(weights) > 1:
            relative = relative - relative.mean(dim=0)
        relative = relative.clamp_min(0) / relative.max().clamp_min(1e-12)
        return {
            "words": list(words),
            "rows": weights.shape[1],
            "columns": weights.shape[2],
            "weights": [[round(value, 4) for value in of_word.flatten().tolist()] for of_word in relative],
            "note": None if self.index.facts.attends else UNTRAINED,
        }

    def _start(self, asked: Question, upload: Decoded | None) -> Start:
        """The query's point and walk, remembered for the next request about the same query."""
        key = (asked.text, asked.upload, asked.image)
        with self._turn:
            if key in self._starts:
                self._starts.move_to_end(key)
                return self._starts[key]
        with _query_refused():
            if asked.text is not None:
                start = self._start_of_text(asked.text)
            elif upload is not None:
                start = self._started(self.asker.embed_image(upload.image))
            else:
                start = self._start_of_place(asked.image)
        with self._turn:
            self._starts[key] = start
            while len(self._starts) > REMEMBERED:
                self._starts.popitem(last=False)
        return start

    def _start_of_text(self, text: str) -> Start:
        if not self.index.facts.has_text:
            raise Refused(422, f"{self.index.facts.name} embeds no texts: search by an image")
        label = self.index.label_of_text(text)
        point = self.asker.embed_text(text)
        words, cut = self.asker.words(text), self.asker.count_cut(text)
        unknown = [word for word in _words(text) if word not in self._known_words]
        return self._started(point, words, cut, unknown if self._enough else [], label)

    def _start_of_place(self, place: int | None) -> Start:
        if place is None or not 0 <= place < len(self.index):
            raise Refused(404, f"image {place} is not in the index: its images are 0 to {len(self.index) - 1}")
        return self._started(self.index.points([place])[0], label=self._label(place))

    def _started(self, point: Tensor, words=(), cut: int = 0, unknown=(), label: int | None = None) -> Start:
        point = point.float().cpu()
        if not point.isfinite().all():
            raise Refused(500, "the model gives no finite point for this query")
        return Start(point, list(words), cut, list(dict.fromkeys(unknown)), label, self._path(point))

    def _path(self, point: Tensor) -> dict[str, Any]:
        """The way from a point to the root, and the captions met on it.

        Where no caption's cone contains any point of the way, which is what our runs on CUB give, captions are met that
        are at least as near to the root as the point of the way; and where there are none, simply the nearest. The
        beginning of the way does not count: a query that is a caption itself lies in that caption's own cone.
        """
        space, root = self.index.space, self.index.root
        nearest, smaller = self._captions_near(point)
        filters = (("cone", smaller), ("radius", smaller), ("none", nearest))
        for general, near in filters if space.has_cones else filters[-1:]:
            captions = self._caption_points[near]
            way = walk(space, point, root, captions, root=root, steps=STEPS, general=general)
            stages = way.stages()
            if any(row != ROOT and share > 0 for share, row in stages):
                break
        met = [
            self._root_stage(share) if row == ROOT else self._stage(share, near[row], captions[row])
            for share, row in stages
        ]
        return {"points": self._places(way.points), "shares": way.shares.tolist(), "met": met, "filter": general}

    def _root_stage(self, share: float) -> dict[str, Any]:
        return {"share": share, "text": None, "kind": "root", "place": self._root_place}

    def _stage(self, share: float, number: int, point: Tensor) -> dict[str, Any]:
        text, kind = self._captions[number]
        return {"share": share, "text": text, "kind": kind, "place": self._places(point[None])[0]}

    def _captions_near(self, point: Tensor) -> tuple[list[int], list[int]]:
        """The captions that are nearest to some points of the way to the root, of all and of those not farther out."""
        if not self._captions:
            return [], []
        space = self.index.space
        shares = torch.linspace(0, 1, LANDMARKS)
        landmarks = space.geodesic(point.expand(LANDMARKS, -1), self.index.root.expand(LANDMARKS, -1), shares)
        scores = space.similarity(landmarks, self._caption_points)
        farther = self._caption_radii[None] > space.radius(landmarks)[:, None]
        return _best(scores), _best(scores.masked_fill(farther, -torch.inf))

    def _results(self, places: list[int], scores: list[float], label: int | None) -> list[dict[str, Any]]:
        points = self.index.points(places)
        radii, drawn = self.index.space.radius(points).tolist(), self._places(points)
        return [
            {
                "image": place,
                "name": self.names[place],
                "score": score,
                "radius": radius,
                "place": spot,
                "label": self._label_name(own := self._label(place)),
                "match": None if label is None or own is None else own == label,
            }
            for place, score, radius, spot in zip(places, scores, radii, drawn, strict=True)
        ]

    def _label(self, place: int) -> int | None:
        """The label of an image; None if it has none, as unlabelled images of a labelled index."""
        label = self.index.labels[place] if self.index.labels is not None else None
        return None if label is None or label < 0 else int(label)

    def _label_name(self, label: int | None) -> str | None:
        return None if label is None else self.index.label_names[label]

    def _sample(self) -> list[dict[str, Any]]:
        if self._cloud is None:
            chosen = _evenly(len(self.index), CLOUD)
            places = self._places(self.index.points(chosen))
            self._cloud = [{"image": image, "place": place} for image, place in zip(chosen, places, strict=True)]
        return self._cloud

    def _places(self, points: Tensor) -> list[list[float]]:
        """Places in the unit disk; five decimals are finer than a screen."""
        placed = self.index.disk.place(self.index.space, points)
        return [[round(x, 5), round(y, 5)] for x, y in placed.tolist()]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _suggestible(index: Any, sentences: Sequence[int]) -> list[str]:
    """Texts to suggest: captions of the persons in the index, so that results have marks; else any sentence."""
    if index.facts.class_kind == "identity":
        present = set(index.labels)
        if described := [caption for caption, label in index.label_of_caption.items() if label in present]:
            return described
    return [index.texts[place] for place in sentences]


def suggestions(texts: Sequence[str]) -> list[str]:
    """A few short texts, from all parts of the list."""
    short = [text for text in dict.fromkeys(texts) if len(text) <= SUGGESTED_CHARACTERS]
    return [short[place] for place in _evenly(len(short), SUGGESTIONS)]


@contextlib.contextmanager
def _query_refused() -> Iterator[None]:
    """Turn what the model says of a query, such as that it has no word, into a refusal."""
    try:
        yield
    except UserError as error:
        raise Refused(422, str(error)) from None


def _best(scores: Tensor) -> list[int]:
    """Columns of scores `(S, T)` that are among the best of a row, ascending; −∞ is none of them."""
    best = scores.topk(min(NEAREST, scores.shape[1]), dim=1)
    return best.indices[best.values > -torch.inf].unique().tolist()


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 … count − 1, evenly apart."""
    if count <= most:
        return list(range(count))
    return [number * count // most for number in range(most)]
