"""From a query to its rank list in large galleries: latency under several clients, exact and approximate."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meru.assemble import Pretrained, build
from meru.benchmarks.asked_latency import ALL, Asked, bytes_of_gallery
from meru.benchmarks.city import Rate, city_section, size_text
from meru.benchmarks.clients import Round, Server, closed_loop, summary
from meru.benchmarks.gallery import CAPTIONS, CLUSTERS, IMAGES, drawn_gallery
from meru.benchmarks.step import captions_like_ours
from meru.errors import UserError
from meru.geometry.spaces import Hyperboloid, Space, Sphere
from meru.index.approximate import ApproximateSearch, recall_of, require_faiss
from meru.index.scan import QUERIES, ExactScan
from meru.reports.tables import markdown_table
from meru.sources.composed import composed_config

K = 10
DIFFERENT = 1000  # queries
MEASURED_ON = 100  # queries, for recall
SPACES: dict[str, tuple[str, Space]] = {
    "lorentz": ("Lorentz distance", Hyperboloid(1.0)),
    "cosine": ("cosine", Sphere()),
}
EXACT, OF_CAPTION = "exact", "exact, from a caption"
HEADER = ("search", "on", "clients", "queries per scan", "requests", "p50", "p99", "queries/s", f"recall@{K}")


@dataclass(frozen=True)
class Place:
    """Where a search runs: its name in tables and as a part of a city's machines, its threads and its device."""

    name: str
    part: str
    threads: int
    device: str = "cpu"


@dataclass
class Line:
    """A line of a table: a search, how it is asked, and what was measured.

    Attributes:
        name: Of the search.
        place: Where it runs.
        search: Takes a list of queries and returns as many answers.
        queries: That it is asked.
        clients: At once.
        most: Queries of a scan at most.
        recall: Share of the K nearest that it finds.
        rounds: Measured so far.
    """

    name: str
    place: Place
    search: Callable[[list[Any]], Sequence[Any]]
    queries: Sequence[Any]
    clients: int
    most: int
    recall: float
    rounds: list[Round] = field(default_factory=list)

    def measure(self, requests: int, seconds: float) -> None:
        """Measure one more round, after two queries that warm up."""

        def search(queries: list[Any]) -> Sequence[Any]:
            _use_threads(self.place.threads)  # every thread has its own number
            return self.search(queries)

        with Server(search, most=self.most) as server:
            for query in self.queries[:2]:
                server.ask(query)
            self.rounds.append(
                closed_loop(server.ask, self.queries, clients=self.clients, requests=requests, seconds=seconds)
            )

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        per_scan = "1" if self.most == 1 else f"all that wait, up to {self.most}"
        recall = "1 (exact)" if self.name.startswith(EXACT) else f"{self.recall:.3f}"
        return [self.name, self.place.name, f"{self.clients}", per_scan, *summary(self.rounds), recall]


def report(asked: Asked) -> str:
    """Tables of latency by gallery, and what a city would need; the number of threads is as before afterwards.

    Raises:
        UserError: if there is no such device, or no room on the disk.
    """
    before = torch.get_num_threads()
    try:
        return _report(asked)
    finally:
        _use_threads(before)


def _report(asked: Asked) -> str:
    places = places_of(asked)
    sections, rates = [_note(asked, places)], []
    largest = size_text(bytes_of_gallery(max(asked.rows), asked.dimension))
    _say(f"galleries of up to {largest} are written in {asked.folder}, one at a time, and removed afterwards")
    tower = _tower(asked)
    for rows in sorted(asked.rows):
        for name in asked.spaces:
            title, space = SPACES[name]
            _say(f"{rows:,} points, {title}")
            lines, left_out = _measured(asked, space, rows, places, tower if name == asked.spaces[0] else None)
            if name == asked.spaces[0]:
                rates = rates_of(lines, rows)  # of the largest gallery, at the end
            table = markdown_table(HEADER, [line.cells for line in lines])
            sections += [f"### {rows:,} points, {title}", table, *left_out]
    return "\n\n".join([*sections, city_section(asked.city, asked.dimension, rates, largest=max(asked.rows))])


def places_of(asked: Asked) -> list[Place]:
    """Where searches run.

    Raises:
        UserError: if a GPU is asked for and there is none.
    """
    on_gpu = torch.cuda.is_available()
    if asked.device == "cuda" and not on_gpu:
        raise UserError("device=cuda: there is no CUDA device here: give device=cpu", exit_code=1)
    cores, places = cores_here(), []
    if asked.device != "cuda":
        for number in dict.fromkeys(cores if each == ALL else int(each) for each in asked.threads):
            name = f"{number} thread{'s' if number > 1 else ''}"
            part = "cores" if number == 1 else f"machines with {number} cores"
            places.append(Place(name, part, number))
    if asked.device != "cpu" and on_gpu:
        places.append(Place("GPU", "GPUs", 1, "cuda"))
    return places


def cores_here() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rates_of(lines: Sequence[Line], rows: int) -> list[Rate]:
    """Points that each place compares in a second, from the exact searches of a gallery of so many points."""
    rates = []
    for place in dict.fromkeys(line.place for line in lines):
        exact = [line for line in lines if line.place == place and line.name == EXACT]
        if not exact:
            continue  # the gallery does not fit there
        rate = {(line.most, line.clients): rows * statistics.median(one.rate for one in line.rounds) for line in exact}
        rates.append(Rate(place.part, alone=rate[min(rate)], together=max(rate.values())))
    return rates


def _measured(
    asked: Asked, space: Space, rows: int, places: Sequence[Place], tower: Pretrained | None
) -> tuple[list[Line], list[str]]:
    """Lines of a gallery's table, measured in turn, so that a load on the machine meets all; and what is left out."""
    _use_threads(cores_here())  # for what is prepared
    different = min(asked.queries, DIFFERENT)
    with drawn_gallery(space, rows, asked.dimension, different, asked.folder) as (exact, points):
        lines, left_out = [], []
        for place in places:
            if place.device == "cuda":
                needed, free = bytes_of_gallery(rows, asked.dimension), torch.cuda.mem_get_info()[0]
                if needed > 0.9 * free:
                    sizes = f"{needed / 1e9:,.1f} GB, {free / 1e9:,.1f} are free"
                    left_out.append(f"Left out on the GPU: the gallery has {sizes}.")
                    continue
            lines += _exact_lines(asked, exact, points, place, tower)
        approximate, missing = _approximate(asked, space, exact, points)
        for (name, recall), search in approximate.items():
            for place in places:
                if place.device == "cpu":
                    lines += _lines(asked, name, place, _answers(search), points, recall)
        for _ in range(asked.rounds):
            for line in lines:
                line.measure(asked.queries, asked.seconds / asked.rounds)
        return lines, left_out + missing


def _exact_lines(
    asked: Asked, exact: ExactScan, points: Tensor, place: Place, tower: Pretrained | None
) -> Iterator[Line]:
    if place.device == "cuda":
        on_gpu = [each.to("cuda") for each in (exact.points, exact.half, exact.own)]
        options = {"longest": exact.longest, "own": on_gpu[2], "rounding": exact.rounding}
        exact = ExactScan(exact.space, on_gpu[0], on_gpu[1], **options)
    yield from _lines(asked, EXACT, place, _answers(exact), points, 1.0)
    if tower is not None:
        captions = captions_like_ours(len(points))

        def search(texts: list[str]) -> list[list[int]]:
            tower.to(place.device)
            with torch.inference_mode():
                return exact.search(tower.encode_text(texts), K)[1].tolist()

        yield Line(OF_CAPTION, place, search, captions, clients=1, most=1, recall=1.0)


def _lines(
    asked: Asked, name: str, place: Place, search: Callable[[list[Any]], Sequence[Any]], points: Tensor, recall: float
) -> Iterator[Line]:
    """A search with every number of clients, one query a scan, and all that wait where several may wait."""
    for clients in sorted(asked.clients):
        for most in (1, QUERIES) if clients > 1 else (1,):
            yield Line(name, place, search, list(points), clients, most, recall)


def _answers(search: ExactScan | ApproximateSearch) -> Callable[[list[Tensor]], list[list[int]]]:
    """A function of queries that gives the rows of the K nearest points of each."""
    return lambda queries: search.search(torch.stack(queries), K)[1].tolist()


def _approximate(
    asked: Asked, space: Space, exact: ExactScan, points: Tensor
) -> tuple[dict[tuple[str, float], ApproximateSearch], list[str]]:
    """FAISS's searches by name and recall, and lines that say what was left out."""
    found, left_out = {}, []
    rows, dimension = exact.points.shape
    for kind in asked.approximate:
        needed, free = rows * (4 * dimension + 8), available_memory()
        if free is not None and needed > 0.8 * free:
            sizes = f"{needed / 1e9:,.1f} GB; {free / 1e9:,.1f} are free"
            left_out.append(f"Left out: FAISS's {kind} copies the points, {sizes}.")
            continue
        try:
            search = ApproximateSearch.of(kind, space, exact.points)
        except UserError:
            left_out.append(f"Left out: FAISS's {kind}, which is not installed here: pip install faiss-cpu.")
            continue
        recall = recall_of(search, exact, points[:MEASURED_ON], k=K)
        found[f"approximate: FAISS, {kind}", recall] = search
    return found, left_out


def available_memory() -> int | None:
    """Bytes of memory that are free or can be freed; None where the system does not tell."""
    facts = Path("/proc/meminfo")
    for line in facts.read_text("ascii").splitlines() if facts.exists() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _use_threads(number: int) -> None:
    torch.set_num_threads(number)
    if _has_faiss():
        require_faiss().omp_set_num_threads(number)


def _tower(asked: Asked) -> Pretrained:
    """A model of random weights with the text tower that captions are embedded by."""
    torch.manual_seed(0)
    config = composed_config(
        "model=meru", "encoder=small",
        encoder__embedding_dimension=asked.dimension, encoder__text__architecture=asked.tower,
    )  # fmt: skip
    pretrained = build(config)
    pretrained.model.eval()
    return pretrained


def _say(progress: str) -> None:
    """Standard output has the report alone."""
    print(progress, file=sys.stderr, flush=True)


def _note(asked: Asked, places: Sequence[Place]) -> str:
    largest = bytes_of_gallery(max(asked.rows), asked.dimension)
    gpu = f" GPU: {torch.cuda.get_device_name()}." if any(place.device == "cuda" for place in places) else ""
    faiss = f" FAISS {require_faiss().__version__}." if asked.approximate and _has_faiss() else ""
    return " ".join([
        f"Galleries of random points in {CLUSTERS:,} clusters, D = {asked.dimension}, in files mapped into memory (at",
        f"most {size_text(largest)}), read once before; Lorentz distance: c = 1, points {IMAGES} from the origin,",
        f"queries {CAPTIONS}. From a query's point to its {K} nearest; from a caption: before that, tokenizer and a",
        f"text tower {asked.tower} of random weights. Clients are threads of the same process that send the next query",
        "when the last is answered; one worker answers, one scan at a time. Requests of a round:",
        f"{asked.queries:,}, or as many as {asked.seconds / asked.rounds:.3g} s allow; rounds in turn: {asked.rounds};",
        "percentiles of all single requests; queries per second: median of the rounds. Recall is measured on",
        f"{min(asked.queries, MEASURED_ON, DIFFERENT)} queries. Cores here: {cores_here()}.{gpu}{faiss}",
    ])  # fmt: skip


def _has_faiss() -> bool:
    try:
        require_faiss()
    except UserError:
        return False
    return True
