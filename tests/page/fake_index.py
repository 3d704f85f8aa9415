"""A small index and a model without weights, with the interfaces of `meru.index`, for tests of the page."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image

from meru.errors import UserError
from meru.geometry.disk import DiskView
from meru.geometry.spaces import Hyperboloid, Sphere

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
TEXTS = [f"{size} {colour} bird" for colour in COLOURS for size in ("a", "a small", "a large")]


class FakeIndex:
    """Twelve images of three colours on the hyperboloid (or the sphere), D = 4, with labels and clusters."""

    def __init__(self, folder: Path, *, curved: bool = True, images: int = 12):
        self.folder, photos = folder, folder / "photos"
        self.names = [f"{list(COLOURS)[place % 3]}/{place}.png" for place in range(images)]
        for place, name in enumerate(self.names):
            (photos / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + place, 30), COLOURS[name.split("/")[0]]).save(photos / name)
        self.facts = SimpleNamespace(
            source="run", name="tiny", model="MERU" if curved else "CLIP", curvature=1.0 if curved else None,
            space="hyperboloid" if curved else "sphere", dimension=4, images=str(photos), has_text=True, attends=False,
            class_kind="class", kind="exact", fingerprint="f",
        )  # fmt: skip
        self.space = Hyperboloid(1.0) if curved else Sphere()
        self.labels = [place % 3 for place in range(images)]
        self.label_names = list(COLOURS)
        self.clusters = [place % 3 for place in range(images)]
        generator = torch.Generator().manual_seed(0)
        directions = torch.eye(4)[[place % 3 for place in range(images)]]
        self._points = self.space.lift(directions + 0.1 * torch.rand(images, 4, generator=generator))
        self.texts = list(TEXTS)
        self.text_kinds = ["caption"] * len(TEXTS)
        self.label_of_caption = {text: number // 3 for number, text in enumerate(TEXTS)}
        self.text_points = torch.stack([embedded(self.space, text) for text in TEXTS])
        self.root = self.space.root(self._points)
        self.disk = DiskView.fit(self.space, self._points, self.text_points)
        self.searches = 0

    def __len__(self) -> int:
        return len(self.names)

    def label_of_text(self, text: str) -> int | None:
        return self.label_of_caption.get(text)

    def path(self, place: int) -> Path:
        return Path(self.facts.images) / self.names[place]

    def points(self, places) -> torch.Tensor:
        return self._points[torch.as_tensor(places, dtype=torch.int64)]

    def search(self, queries, k):
        self.searches += 1
        return self.space.similarity(queries, self._points).topk(k, dim=1)

    @property
    def cluster_names(self) -> dict[int, str]:
        file = self.folder / "names.json"
        return {int(key): name for key, name in json.loads(file.read_text()).items()} if file.exists() else {}

    def name_cluster(self, cluster: int, name: str) -> None:
        if not self.folder.is_dir():
            raise UserError(f"cannot write {self.folder}", exit_code=1)
        (self.folder / "names.json").write_text(json.dumps({**self.cluster_names, cluster: name}))


def embedded(space, text: str) -> torch.Tensor:
    """A point in the direction of the text's colour; longer texts lie farther out."""
    direction = torch.full((4,), 0.05)
    for axis, colour in enumerate(COLOURS):
        direction[axis] += colour in text
    return space.lift(direction * len(text.split()) / 4)


class FakeAsker:
    """Embeds texts and images by their colour, and counts how often."""

    def __init__(self, index: FakeIndex):
        self.index, self.embedded, self.failing = index, 0, False

    def load(self) -> None:
        pass

    def embed_text(self, text: str) -> torch.Tensor:
        self.embedded += 1
        if self.failing:
            raise RuntimeError("the weights are gone\nfrom a second line")
        if not any(character.isalpha() for character in text):
            raise UserError("the query holds no word")
        return embedded(self.index.space, text)

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        self.embedded += 1
        return self.index.space.lift(torch.cat([image.float().mean((1, 2)) / 255, torch.full((1,), 0.1)]))

    def count_cut(self, text: str) -> int:
        return max(0, len(text.split()) - 8)

    def words(self, text: str) -> list[str]:
        return text.split()

    def word_attention(self, image: torch.Tensor, text: str):
        words = text.split()
        weights = torch.rand(len(words), 2, 3, generator=torch.Generator().manual_seed(len(words)))
        return words, weights
