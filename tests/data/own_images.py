"""Draws small images and writes tables for the tests of one's own data."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def draw(folder: Path, *names: str) -> Path:
    """An image of eight pixels a side for each name, each in another colour."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 99)).save(path)
    return folder


def numbered(count: int) -> list[str]:
    return [f"{number}.png" for number in range(count)]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path
