"""Points of an index that is being made: appended as they are computed, so that a stopped command can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from meru.errors import UserError
from meru.files import os_error_message

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
        self.rows = 0
        head = {"fingerprint": fingerprint, "dimension": dimension}
        if self._read(head):
            return
        self.remove()
        self.lines_file.write_text(json.dumps(head) + "\n", "utf-8")
        self.points_file.touch()

    def _read(self, head: dict) -> bool:
        """Read what an earlier command has left; False if there is nothing of this model."""
        kept = []
        try:
            first, *lines = self.lines_file.read_text("utf-8", "surrogateescape").splitlines()
            if json.loads(first) != head:
                return False
            for line in lines[: self.points_file.stat().st_size // (4 * self.dimension)]:
                if (entry := _entry(line)) is None:  # written half when the command was killed
                    break
                self._add(entry)
                kept.append(line)
            # What is left is exactly what was read: both files are cut to it.
            os.truncate(self.points_file, 4 * self.dimension * self.rows)
            self.lines_file.write_text("\n".join([json.dumps(head), *kept]) + "\n", "utf-8", "surrogateescape")
        except (OSError, ValueError):
            self.entries, self.rows = {}, 0
            return False
        return True

    def _add(self, entry: dict) -> None:
        """Note the next row, which takes the place of an earlier one of the same image."""
        self.entries[entry["name"]] = {**entry, "row": self.rows}
        self.rows += 1

    def keep(self, names: Collection[str]) -> None:
        """Forget all images but these."""
        self.entries = {name: self.entries[name] for name in names}

    def append(self, entries: list[dict], points: Tensor) -> None:
        """Add images, each with `name`, `size`, `time` and what else is known of it, and their points `(B, D)`.

        Raises:
            UserError: if they cannot be written.
        """
        try:
            with self.points_file.open("ab") as file:
                file.write(points.float().contiguous().numpy().data)
            with self.lines_file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
        except OSError as error:
            raise UserError(f"cannot write {self.points_file.parent}: {os_error_message(error)}", exit_code=1) from None
        for entry in entries:
            self._add(entry)

    def points(self) -> Tensor:
        """All points, `(rows, D)`, in the order of their rows."""
        if not self.rows:
            return torch.zeros(0, self.dimension)
        points = torch.from_file(str(self.points_file), shared=False, size=self.rows * self.dimension)
        return points.view(self.rows, self.dimension)

    def remove(self) -> None:
        """Delete the files, which a complete index no longer needs."""
        for path in (self.points_file, self.lines_file):
            path.unlink(missing_ok=True)
        self.entries, self.rows = {}, 0


def _entry(line: str) -> dict | None:
    """What a line says of an image; None if it is damaged."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"name", "size", "time"} <= entry.keys() else None
