"""The words of `scripts/benchmark.py latency`, read and checked without PyTorch."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meru.benchmarks.city import BYTES_BESIDE, BYTES_OF_POINT, City
from meru.command_line import only_own_arguments
from meru.configuration.kinds import Choice, FilePath, Kind, Number, Whole
from meru.errors import UserError
from meru.files import output_file, user_path

ALL = "all"  # cores
SPACES = ("lorentz", "cosine")
NO = "none"


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        rows: Sizes of galleries.
        dimension: D.
        spaces: Of `SPACES`.
        clients: Numbers of clients at once.
        queries: Requests of a round, of all clients together.
        rounds: Of every measurement.
        seconds: That the rounds of one line of the table take at most, together.
        threads: Numbers of threads of a search, or `all`.
        device: `auto`, `cpu` or `cuda`.
        approximate: Kinds of FAISS's indexes.
        tower: Architecture of the text tower.
        folder: Where the galleries are written.
        city: The network on paper.
        output: Markdown file; None: none.
    """

    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    dimension: int = 256
    spaces: tuple[str, ...] = SPACES
    clients: tuple[int, ...] = (1, 8, 64)
    queries: int = 200
    rounds: int = 3
    seconds: float = 15.0
    threads: tuple[int | str, ...] = (1, ALL)
    device: str = "auto"
    approximate: tuple[str, ...] = ("ivf",)
    tower: str = "L3_W192_A3"
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    city: City = field(default_factory=City)
    output: Path | None = None


KINDS: dict[str, Kind] = {
    "rows": Whole(1, 1_000_000_000),
    "dimension": Whole(2, 8192),
    "spaces": Choice(SPACES),
    "clients": Whole(1, 1024),
    "queries": Whole(1, 1_000_000),
    "rounds": Whole(1, 100),
    "seconds": Number(0.01, 3600),
    "threads": Whole(1, 1024),
    "device": Choice(("auto", "cpu", "cuda")),
    "approximate": Choice(("ivf", "hnsw", NO)),
    "folder": FilePath("a folder"),
    "output": FilePath("a Markdown file"),
    "cameras": Whole(1, 100_000_000),
    "persons": Whole(1, 1_000_000),
    "days": Whole(1, 36_500),
    "city_queries": Whole(1, 1_000_000_000),
    "answer": Number(0, 3600, above=True),
}
SEVERAL = ("rows", "spaces", "clients", "threads", "approximate")
OF_CITY = {"cameras": "cameras", "persons": "persons", "days": "days", "city_queries": "queries", "answer": "answer"}
TOWER = re.compile(r"L[1-9]\d*_W[1-9]\d*(_A[1-9]\d*)?")
MEANINGS = {key: kind.allowed for key, kind in KINDS.items()} | {"tower": "layers, width and heads like L12_W512_A8"}


def asked_latency(words: Sequence[str]) -> Asked:
    """Read words `key=value`.

    Raises:
        UserError: for another word, a value that is not allowed, or a disk without room for the largest gallery.
    """
    given = only_own_arguments(words, MEANINGS)
    values = {key: _values(key, text) if key in SEVERAL else _value(key, text) for key, text in given.items()}
    approximate = values.get("approximate", Asked.approximate)
    if NO in approximate:
        if len(approximate) > 1:
            raise UserError(f"approximate={given['approximate']}: give none alone, or kinds without it")
        values["approximate"] = ()
    city = City(**{name: values.pop(key) for key, name in OF_CITY.items() if key in values})
    if "output" in values:
        values["output"] = output_file(given["output"], example="latency.md", also=(".txt",))
    if "folder" in values:
        values["folder"] = user_path(given["folder"])
    asked = Asked(**values, city=city)
    if not asked.folder.is_dir():
        raise UserError(f"folder={given.get('folder')}: there is no such folder")
    require_disk(asked)
    return asked


def _values(key: str, text: str) -> tuple:
    """Several values between commas, each once, in their order."""
    return tuple(dict.fromkeys(_value(key, each.strip()) for each in text.split(",")))


def _value(key: str, text: str) -> object:
    if key == "tower":
        if not TOWER.fullmatch(text):
            raise UserError(f"tower={text}: give {MEANINGS[key]}")
        return text
    if key == "threads" and text == ALL:
        return ALL
    value = _number(text) if isinstance(KINDS[key], Whole | Number) else text
    if not KINDS[key].takes(value):
        raise UserError(f"{key}={text}: give {KINDS[key].allowed}{' or all' if key == 'threads' else ''}")
    return value


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def bytes_of_gallery(rows: int, dimension: int) -> int:
    """Bytes of the files of a gallery: float32, half precision, and one number per point."""
    return rows * (BYTES_OF_POINT * dimension + BYTES_BESIDE)


def require_disk(asked: Asked) -> None:
    """Refuse galleries that the disk has no room for; one gallery is there at a time.

    Raises:
        UserError: naming what is needed and what is free.
    """
    needed, free = bytes_of_gallery(max(asked.rows), asked.dimension), shutil.disk_usage(asked.folder).free
    if needed > free:
        raise UserError(
            f"rows={max(asked.rows)}: a gallery needs {needed / 1e9:,.1f} GB in {asked.folder}, which has "
            f"{free / 1e9:,.1f} GB free: give fewer rows, or folder=<folder on another disk>"
        )
