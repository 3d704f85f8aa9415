"""Time and memory of the ranking figures at the size of a test split."""

from __future__ import annotations

import math
import statistics
import time

import torch
from torch import Tensor

from meru.benchmarks.geometry import cosine
from meru.benchmarks.measuring import CountMemory, synchronize
from meru.geometry import lorentz
from meru.metrics.retrieval import retrieval_metrics
from meru.reports.tables import markdown_table

SIMILARITIES = {
    "cosine": lambda queries, gallery: cosine(queries, gallery, torch.tensor(1.0)),
    "hyperboloid, −distance": lambda queries, gallery: -lorentz.pairwise_distance(queries, gallery, 1.0),
}


def report(size: int, dimension: int, identities: int, repeats: int, device: str) -> str:
    """Time and peak memory of `retrieval_metrics` with `size` queries and a gallery of the same size."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        (torch.randn(size, dimension, generator=generator) / math.sqrt(dimension)).to(device) for _ in range(2)
    )
    labels = (torch.arange(size) % identities).to(device)
    rows = []
    first = slice(0, 256)
    for similarity in SIMILARITIES.values():
        measure(queries[first], gallery[first], labels[first], similarity, device)  # warms up
    for name, similarity in SIMILARITIES.items():
        measured = [measure(queries, gallery, labels, similarity, device) for _ in range(repeats)]
        seconds, peaks = zip(*measured, strict=True)
        rows.append([name, f"{statistics.median(seconds):.1f} s", f"{max(peaks) / 2**20:.0f} MiB"])
    note = (
        f"{size:,} queries × {size:,} in the gallery, D = {dimension}, {identities:,} identities, random points; "
        f"recall, mAP and mINP with their chance levels; median of {repeats}. Memory: peak of the intermediate "
        "tensors, without the embeddings."
    )
    return note + "\n\n" + markdown_table(["similarity", "time", "memory"], rows)


def measure(queries: Tensor, gallery: Tensor, labels: Tensor, similarity, device: str) -> tuple[float, int]:
    """Seconds and peak bytes of one pass over all queries."""

    def run() -> None:
        retrieval_metrics(queries, gallery, query_labels=labels, gallery_labels=labels, similarity=similarity)

    synchronize(device)
    start = time.perf_counter()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronize(device)
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before
    with CountMemory([queries, gallery, labels]) as memory:
        run()
    return time.perf_counter() - start, memory.peak
