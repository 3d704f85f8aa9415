"""An index folder: which files it has, and what they answer.

    index.json            facts; see `meru.index.facts`
    points.<n>.f32        points, float32 rows
    half.<n>.f16          the same in half precision, for the scan
    rest.<n>.safetensors  one number per point, labels, predicted classes, points and kinds of texts, the plane
    images.<n>.jsonl      name, size and time of change of every image
    texts.<n>.json        texts, and the labels of captions
    faiss.<n>             FAISS's index, if there is one
    skipped.csv           images that could not be read, and why
    cluster_names.json    names that a user gave to clusters

<n> is the generation: an index that is brought up to date writes the next one, so that readers of the old one go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from meru.errors import UserError
from meru.files import os_error_message, user_path, write_text
from meru.geometry.disk import DiskView
from meru.geometry.spaces import Space
from meru.index.approximate import ApproximateSearch
from meru.index.facts import TEXT_KINDS, Facts, read_facts
from meru.index.scan import ExactScan

CLUSTER_NAMES = "cluster_names.json"
LONGEST_CLUSTER_NAME = 100
MISSING = -1  # instead of a label or a class


def open_index(folder: str | Path) -> Index:
    """Open an index.

    Raises:
        UserError: if the folder holds no index, or a damaged one.
    """
    path = user_path(folder)
    return Index(path, read_facts(path))


class Index:
    """An index of images; `open_index` makes one.

    Args:
        folder: Where it is.
        facts: From `index.json`.

    Raises:
        UserError: if a file is missing or has another size than the facts say.
    """

    def __init__(self, folder: Path, facts: Facts):
        self.folder, self.facts = folder, facts
        self.space: Space = facts.space_object()
        shape = (facts.count, facts.dimension)
        self._points = self._mapped("points", "f32", torch.float32, shape)
        self._half = self._mapped("half", "f16", torch.float16, shape)
        try:
            self._rest = load_file(self.file("rest", "safetensors"))
            told = json.loads(self.file("texts", "json").read_text("utf-8", "surrogateescape"))
            self.texts: list[str] = told["texts"]
            self.label_of_caption: dict[str, int] = told["label_of_caption"]
            lines = self.file("images", "jsonl").read_text("utf-8", "surrogateescape").splitlines()
            self._images = [json.loads(line) for line in lines]
        except OSError as error:
            raise UserError(f"index={folder}: {os_error_message(error)}; make the index again", exit_code=1) from None
        except Exception:  # the readers raise errors of their own for damaged files
            raise UserError(f"index={folder} is damaged: make it again with scripts/index.py") from None
        sizes = {"own": facts.count, "text_points": len(self.texts), "text_kinds": len(self.texts), "plane": 2}
        whole = {name: len(self._rest[name]) for name in sizes if name in self._rest} == sizes
        if not whole or "root" not in self._rest or len(self._images) != facts.count:
            raise UserError(f"index={folder} is damaged: make it again with scripts/index.py")

    def __len__(self) -> int:
        return self.facts.count

    def file(self, name: str, ending: str) -> Path:
        """A file of this generation."""
        return self.folder / f"{name}.{self.facts.generation}.{ending}"

    def _mapped(self, name: str, ending: str, dtype: torch.dtype, shape: tuple[int, int]) -> Tensor:
        path = self.file(name, ending)
        wanted = shape[0] * shape[1] * dtype.itemsize
        found = path.stat().st_size if path.is_file() else None
        if found != wanted:
            what = "is missing" if found is None else f"has {found} bytes instead of {wanted}"
            raise UserError(f"index={self.folder} is damaged: {path.name} {what}; make it again with scripts/index.py")
        return torch.from_file(str(path), shared=False, size=shape[0] * shape[1], dtype=dtype).view(shape)

    # ---------------------------------------------------------------- images

    @cached_property
    def names(self) -> Sequence[str]:
        """Path of every image inside `facts.images`."""
        return [image["name"] for image in self._images]

    def path(self, place: int) -> Path:
        """The file of an image, if it is still the one that was indexed.

        Raises:
            UserError: if there is no such image, or its file is gone or has changed.
        """
        if not 0 <= place < len(self):
            raise UserError(f"image {place}: the index has {len(self)} images, counted from 0")
        image = self._images[place]
        path = Path(self.facts.images, image["name"])
        try:
            found = path.stat()
        except OSError as error:
            raise UserError(f"image {image['name']}: {error.strerror}; restore it", exit_code=1) from None
        if (found.st_size, found.st_mtime_ns) != (image["size"], image["time"]):
            raise UserError(
                f"image {image['name']} has changed since it was indexed: run scripts/index.py again", exit_code=1
            )
        return path

    @property
    def known_files(self) -> dict[str, tuple[int, int, int]]:
        """Row, size and time of change of every image, by name."""
        return {image["name"]: (row, image["size"], image["time"]) for row, image in enumerate(self._images)}

    def points(self, places: Sequence[int] | Tensor) -> Tensor:
        """Points of images, float32 `(n, D)`."""
        return self._points[torch.as_tensor(places, dtype=torch.int64)]

    # ---------------------------------------------------------------- search

    @cached_property
    def exact(self) -> ExactScan:
        """The exact search among the points."""
        own, facts = self._rest["own"], self.facts
        options = {"longest": facts.longest, "own": own, "rounding": facts.rounding}
        return ExactScan(self.space, self._points, self._half, **options)

    @cached_property
    def approximate(self) -> ApproximateSearch | None:
        """FAISS's search, if the index has one."""
        if self.facts.kind == "exact":
            return None
        return ApproximateSearch.read(self.folder / f"faiss.{self.facts.generation}", self.space, self._points)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k most similar images of each query, best first.

        Args:
            queries: Points `(Q, D)`.
            k: At least 1; beyond the number of images it acts like it.

        Returns:
            Similarities of the space, float32, and places of images, int64; both `(Q, min(k, n))`.
        """
        return (self.approximate or self.exact).search(queries, k)

    @cached_property
    def root(self) -> Tensor:
        """The most general point, `(D,)`; see `Space.root`."""
        return self._rest["root"]

    @cached_property
    def disk(self) -> DiskView:
        """How points are drawn in the Poincaré disk."""
        return DiskView(self._rest["plane"])

    # ---------------------------------------------------------------- annotations

    @cached_property
    def labels(self) -> list[int | None] | None:
        """Label of every image, None where it is not known; None without labels."""
        return _known(self._rest.get("labels"))

    @property
    def label_names(self) -> list[str]:
        """By label."""
        return self.facts.label_names

    @property
    def text_points(self) -> Tensor:
        """Points of the texts, `(T, D)`."""
        return self._rest["text_points"]

    @cached_property
    def text_kinds(self) -> list[str]:
        """Kind of every text, of `TEXT_KINDS`."""
        return [TEXT_KINDS[kind] for kind in self._rest["text_kinds"].tolist()]

    def label_of_text(self, text: str) -> int | None:
        """Label of a caption of the annotation, from any split; None for other texts."""
        return self.label_of_caption.get(text)

    # ---------------------------------------------------------------- clusters

    @cached_property
    def clusters(self) -> list[int] | None:
        """The class that a model of category discovery predicts for every image."""
        return self._rest["clusters"].tolist() if "clusters" in self._rest else None

    @property
    def cluster_names(self) -> dict[int, str]:
        """Names of clusters: those that the user gave, and the model's where he gave none."""
        given = dict(enumerate(self.facts.cluster_names))
        return given | {int(number): name for number, name in self._given_names().items()}

    def name_cluster(self, cluster: int, name: str) -> None:
        """Give a cluster a name, kept in the index; an empty name takes the model's again.

        Raises:
            UserError: for an unknown cluster, or a name with more than 100 or unprintable characters.
        """
        name = name.strip()
        if self.clusters is None or cluster not in set(self.clusters):
            raise UserError(f"cluster {cluster}: the index has no such cluster")
        if len(name) > LONGEST_CLUSTER_NAME or not name.isprintable():
            raise UserError(f"the name of a cluster has at most {LONGEST_CLUSTER_NAME} printable characters")
        names = self._given_names()
        if name:
            names[str(cluster)] = name
        else:
            names.pop(str(cluster), None)
        write_text(self.folder / CLUSTER_NAMES, json.dumps(names, ensure_ascii=False, indent=1) + "\n")

    def _given_names(self) -> dict[str, str]:
        try:
            found = json.loads((self.folder / CLUSTER_NAMES).read_text("utf-8"))
            if not isinstance(found, dict) or not all(
                re.fullmatch("-?[0-9]+", number) and isinstance(name, str) for number, name in found.items()
            ):
                raise ValueError("not an object of names by number")
            return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder / CLUSTER_NAMES} cannot be read ({error}): repair or remove it") from None


def _known(values: Tensor | None) -> list[int | None] | None:
    return None if values is None else [None if value == MISSING else value for value in values.tolist()]
