"""Points of an index that is being made: appended as they are computed, so that a stopped command can go on."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

POINTS, LINES = "building.f32", "building.jsonl"


class Journal:
    """Points that were computed since the last complete index, kept only for the same model.

    Args:
        folder: Of the index.
        fingerprint: Of the model.
        dimension: D of the points.
    """

    def __init__(self, folder: Path, *, fingerprint: str, dimension: int):
        self.points_file, self.lines_file = folder / POINTS, folder / LINES
        self.dimension = dimension
        self.entries: dict[str, dict] = {}
        head = {"fingerprint": fingerprint, "dimension": dimension}
        if self._read(head):
            return
        self.remove()
        self.lines_file.write_text(json.dumps(head) + "\n", "utf-8")
        self.points_file.touch()

    def _read(self, head: dict) -> bool:
        """Read what an earlier command has left; False if there is nothing of this model."""
        try:
            first, *lines = self.lines_file.read_text("utf-8", "surrogateescape").splitlines()
            if json.loads(first) != head:
                return False
            rows = self.points_file.stat().st_size // (4 * self.dimension)
            for line in lines[:rows]:
                with suppress(ValueError):  # the last line, if the command was killed
                    entry = json.loads(line)
                    self.entries[entry["name"]] = {**entry, "row": len(self.entries)}
        except (OSError, ValueError):
            return False
        # What is left is exactly what was read: both files are cut to it.
        with self.points_file.open("r+b") as file:
            file.truncate(4 * self.dimension * len(self.entries))
        kept = [json.dumps(head), *lines[: len(self.entries)]]
        self.lines_file.write_text("\n".join(kept) + "\n", "utf-8", "surrogateescape")
        return True

    def append(self, entries: list[dict], points: Tensor) -> None:
        """Add images, each with `name`, `size`, `time` and what else is known of it, and their points `(B, D)`."""
        with self.points_file.open("ab") as file:
            file.write(points.float().contiguous().numpy().data)
        with self.lines_file.open("a", encoding="utf-8", errors="surrogateescape") as file:
            for entry in entries:
                file.write(json.dumps(entry) + "\n")
        for entry in entries:
            self.entries[entry["name"]] = {**entry, "row": len(self.entries)}

    def points(self) -> Tensor:
        """All points, `(n, D)`, in the order of their rows."""
        count = len(self.entries)
        if not count:
            return torch.zeros(0, self.dimension)
        points = torch.from_file(str(self.points_file), shared=False, size=count * self.dimension)
        return points.view(count, self.dimension)

    def remove(self) -> None:
        """Delete the files, which a complete index no longer needs."""
        for path in (self.points_file, self.lines_file):
            path.unlink(missing_ok=True)
        self.entries = {}
