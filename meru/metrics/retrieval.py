"""Retrieval metrics that are exact for tied scores: the expectation over random orders of equal scores.

A constant similarity therefore scores exactly the chance level, and the order of the gallery never matters.
With ties, the ranking of a query is a sequence of tie groups; a group with relevant items enters by four numbers:

    g  items that score strictly higher            a  relevant ones among those g
    t  items in the group                          r  relevant ones among those t

They are found by placing the R relevant scores among the sorted ones of the gallery. Names of the figures: see
`meru.reports.tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from meru.errors import UserError

Similarity = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def retrieval_metrics(
    queries: Tensor,
    gallery: Tensor,
    *,
    query_labels: Tensor | Mapping[str, Tensor],
    gallery_labels: Tensor | Mapping[str, Tensor],
    similarity: Similarity,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 256,
) -> dict[str, float]:
    """Metrics of how well each query ranks the gallery items that have its label.

    A query without any relevant item scores 0 in every metric, chance levels included, and is counted.

    Args:
        queries: Embeddings, shape `(q, D)`.
        gallery: Embeddings, shape `(n, D)`.
        query_labels: Integers, shape `(q,)`; or several kinds of labels by name, judged on the same scores.
        gallery_labels: Integers, shape `(n,)`, of the same kinds. An item is relevant iff labels are equal.
        similarity: Maps `(chunk, D)` and `(n, D)` to scores `(chunk, n)`; higher is more similar.
        ks: Cut-offs of recall@k, each ≥ 1; beyond n they act like n.
        chunk_size: Queries scored at a time; memory grows with `chunk_size · n`.

    Returns:
        `recall@k` (share of queries with a relevant item among the first k), `mean_average_precision`,
        `mean_inverse_negative_penalty` (R / rank of the last of the R relevant items; Ye et al., "Deep
        Learning for Person Re-identification: A Survey and Outlook", 2021), each also under a random order as
        `chance_<name>`; `queries` and `queries_without_match`. With several kinds of labels: `<kind>/<name>`.

    Raises:
        ValueError: if there is nothing to rank, shapes or kinds do not fit, or a k is below 1.
        UserError: if a score is NaN or infinite; the message names the query.
    """
    prefix = "{}" if isinstance(query_labels, Tensor) else "{}/"
    of_queries = {"": query_labels} if isinstance(query_labels, Tensor) else query_labels
    of_gallery = {"": gallery_labels} if isinstance(gallery_labels, Tensor) else gallery_labels
    if not ks or min(ks) < 1:
        raise ValueError(f"ks must be cut-offs of at least 1, got {tuple(ks)}")
    _check_labels(of_queries, of_gallery, (len(queries), len(gallery)))
    relevance = {
        kind: _Relevance(of_queries[kind].to(queries.device), of_gallery[kind].to(queries.device))
        for kind in of_queries
    }
    totals: dict[str, Tensor] = {}
    for rows, scores in score_chunks(queries, gallery, similarity=similarity, chunk_size=chunk_size):
        for kind, relevant in relevance.items():
            found = _expected_metrics(scores, relevant.scores(scores, rows), ks).sum(dim=0)
            totals[kind] = totals.get(kind, 0.0) + found

    names = [*(f"recall@{k}" for k in ks), "mean_average_precision", "mean_inverse_negative_penalty"]
    metrics: dict[str, float] = {}
    for kind, relevant in relevance.items():
        figures = dict(zip(names, (totals[kind] / len(queries)).tolist(), strict=True))
        chances = zip(names, relevant.chance(ks).tolist(), strict=True)
        figures |= {f"chance_{name}": chance for name, chance in chances}
        without = float((relevant.count == 0).sum())
        figures |= {"queries": float(len(queries)), "queries_without_match": without}
        metrics |= {prefix.format(kind) + name: figure for name, figure in figures.items()}
    return metrics


def _check_labels(of_queries: Mapping[str, Tensor], of_gallery: Mapping[str, Tensor], sizes: tuple[int, int]) -> None:
    if of_queries.keys() != of_gallery.keys():
        raise ValueError(f"kinds of labels differ: {list(of_queries)} and {list(of_gallery)}")
    for kind in of_queries:
        shapes = tuple(of_queries[kind].shape), tuple(of_gallery[kind].shape)
        if shapes != tuple((size,) for size in sizes):
            raise ValueError(f"{sizes[0]} queries and {sizes[1]} gallery items, but labels {shapes}")


def image_text_retrieval(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    *,
    text_image_index: Tensor,
    image_class_index: Tensor,
    similarity: Similarity,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int = 256,
) -> dict[str, float]:
    """Retrieval in both directions, with relevance by image and by class.

    Args:
        image_embeddings: Shape `(n, D)`.
        text_embeddings: Shape `(m, D)`.
        text_image_index: Row of `image_embeddings` that each text describes, shape `(m,)`.
        image_class_index: Class of each image, shape `(n,)`; a text has the class of its image.
        similarity: Symmetric in its arguments: called with texts and images, then with images and texts.
        ks, chunk_size: As in `retrieval_metrics`.

    Returns:
        The figures of `retrieval_metrics` under `<direction>/<level>/`: `text_to_image` or `image_to_text`,
        `image` or `class`, as in `text_to_image/class/recall@1`.

    Raises:
        ValueError: if a text points to no image, or as in `retrieval_metrics`.
    """
    images = len(image_embeddings)
    if len(text_image_index) and not 0 <= int(text_image_index.min()) <= int(text_image_index.max()) < images:
        raise ValueError(f"text_image_index must be a row number below {images}, the number of images")
    text_image_index = text_image_index.to(image_class_index.device)
    image_labels = {
        "image": torch.arange(images, device=image_class_index.device),
        "class": image_class_index,
    }
    text_labels = {"image": text_image_index, "class": image_class_index[text_image_index]}
    directions = {
        "text_to_image": (text_embeddings, image_embeddings, text_labels, image_labels),
        "image_to_text": (image_embeddings, text_embeddings, image_labels, text_labels),
    }
    metrics: dict[str, float] = {}
    for direction, (queries, gallery, query_labels, gallery_labels) in directions.items():
        figures = retrieval_metrics(
            queries,
            gallery,
            query_labels=query_labels,
            gallery_labels=gallery_labels,
            similarity=similarity,
            ks=ks,
            chunk_size=chunk_size,
        )
        metrics |= {f"{direction}/{name}": figure for name, figure in figures.items()}
    return metrics


@torch.no_grad()
def top_k(
    queries: Tensor, gallery: Tensor, *, similarity: Similarity, k: int, chunk_size: int = 256
) -> tuple[Tensor, Tensor]:
    """The k best gallery items of each query, best first; equal scores come in no particular order.

    Returns:
        Scores and gallery indices, both of shape `(q, min(k, n))`.

    Raises:
        ValueError, UserError: as `retrieval_metrics` does.
    """
    chunks = score_chunks(queries, gallery, similarity=similarity, chunk_size=chunk_size)
    best = [scores.topk(min(k, len(gallery)), dim=1) for _, scores in chunks]
    return torch.cat([chunk.values for chunk in best]), torch.cat([chunk.indices for chunk in best])


def score_chunks(
    queries: Tensor, gallery: Tensor, *, similarity: Similarity, chunk_size: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of each chunk of queries and their checked scores `(chunk, n)`, in float32 or float64.

    Raises:
        ValueError: if there are no queries or no gallery, `chunk_size` is below 1, or the scores have another shape.
        UserError: if a score is NaN or infinite; the message names the query.
    """
    if len(queries) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to rank: {len(queries)} queries and {len(gallery)} gallery items")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    for start in range(0, len(queries), chunk_size):
        rows = slice(start, min(start + chunk_size, len(queries)))
        scores = similarity(queries[rows], gallery)
        if scores.shape != (rows.stop - start, len(gallery)):
            expected = (rows.stop - start, len(gallery))
            raise ValueError(f"similarity gave scores of shape {tuple(scores.shape)}, expected {expected}")
        scores = (scores if scores.dtype == torch.float64 else scores.float()).contiguous()
        finite = torch.stack(scores.aminmax(dim=1)).isfinite().all(dim=0)
        if not finite.all():
            query = start + int(finite.int().argmin())
            raise UserError(
                f"similarity gave a score that is NaN or infinite for query {query}: the weights are unusable; take "
                "an earlier checkpoint, or train with a lower learning rate or trainer.precision=fp32",
                exit_code=1,
            )
        yield rows, scores


class _Relevance:
    """The relevant items of every query, kept as ranges of the gallery sorted by label."""

    def __init__(self, query_labels: Tensor, gallery_labels: Tensor):
        labels, self.order = gallery_labels.sort()
        self.first = torch.searchsorted(labels, query_labels)
        self.count = torch.searchsorted(labels, query_labels, right=True) - self.first

    def scores(self, scores: Tensor, rows: slice) -> Tensor:
        """Scores of the relevant items, ascending, padded with +∞: `(chunk, n)` → `(chunk, R)`."""
        count = self.count[rows, None]
        column = torch.arange(max(1, int(count.max())), device=count.device)
        position = (self.first[rows, None] + column).clamp(max=len(self.order) - 1)
        relevant = scores.gather(1, self.order[position]).masked_fill(column >= count, torch.inf)
        return relevant.sort(dim=1).values

    def chance(self, ks: Sequence[int]) -> Tensor:
        """Metrics under a random order, equal to those of a constant score: shape `(len(ks) + 2,)`."""
        constant = torch.zeros(1, len(self.order), device=self.order.device)
        total = torch.zeros(len(ks) + 2, dtype=torch.float64, device=self.order.device)
        counts, queries = self.count[self.count > 0].unique(return_counts=True)
        for count, share in zip(counts.tolist(), (queries.double() / len(self.count)).tolist(), strict=True):
            total += share * _expected_metrics(constant, constant[:, :count], ks)[0]
        return total


def _expected_metrics(scores: Tensor, relevant: Tensor, ks: Sequence[int]) -> Tensor:
    """Recall at each k, average precision and inverse negative penalty per query: float64 `(q, len(ks) + 2)`.

    Args:
        scores: Finite, shape `(q, n)`.
        relevant: Scores of the relevant items, ascending, padded with +∞, shape `(q, R)`, R ≥ 1.
    """
    real = relevant.isfinite()
    count = real.sum(dim=1, keepdim=True)
    # Strictly higher than a score is at least the next number above it: one pass gives both counts.
    higher = torch.nextafter(relevant, relevant.new_tensor(torch.inf))
    above, at_least = _count_at_least(scores, torch.cat([higher, relevant], dim=1)).double().chunk(2, dim=1)
    tied = (at_least - above).clamp(min=1)  # 0 only for padding
    below_or_tied = torch.searchsorted(relevant, relevant, right=True)
    relevant_above = (count - below_or_tied).double()
    relevant_tied = (below_or_tied - torch.searchsorted(relevant, relevant)).double()

    best = (count - 1).clamp(min=0)
    recall = _hit_probability(above.gather(1, best), tied.gather(1, best), relevant_tied.gather(1, best), ks)
    precision = torch.where(real, _expected_precision(above, tied, relevant_above, relevant_tied), 0)
    average_precision = precision.sum(dim=1, keepdim=True) / count.clamp(min=1)
    penalty = count * _expected_inverse_last_rank(above[:, :1], tied[:, :1], relevant_tied[:, :1])
    return torch.where(count > 0, torch.cat([recall, average_precision, penalty], dim=1), 0)


def _count_at_least(scores: Tensor, bounds: Tensor) -> Tensor:
    """Number of scores of a row that are ≥ each bound of that row: `(q, n)`, `(q, m)` → `(q, m)`."""
    # NumPy sorts with vector instructions, over ten times as fast as PyTorch on a CPU, which also sorts indices.
    on_cpu = scores.device.type == "cpu"
    ordered = torch.from_numpy(np.sort(scores.numpy(), axis=1)) if on_cpu else scores.sort(dim=1).values
    return scores.shape[1] - torch.searchsorted(ordered, bounds)


def _hit_probability(above: Tensor, tied: Tensor, relevant_tied: Tensor, ks: Sequence[int]) -> Tensor:
    """P(a relevant item among the first k), from the best tie group that has one, `(q, 1)` each → `(q, len(ks))`.

    The first k take m = k − g items of the group; all of them miss with probability

        C(t − r, m) / C(t, m) = ∏_{i < m} (t − r − i) / (t − i)
    """
    draw = torch.arange(min(max(ks), int((above + tied).max())), device=above.device)
    miss = (tied - relevant_tied - draw).clamp(min=0) / (tied - draw).clamp(min=1)
    return torch.stack([1 - torch.where(draw < k - above, miss, 1).prod(dim=1) for k in ks], dim=1)


def _expected_precision(above: Tensor, tied: Tensor, relevant_above: Tensor, relevant_tied: Tensor) -> Tensor:
    """E[precision at the rank of a relevant item], for every relevant item; their mean is average precision.

    The item is at each position j = 1 … t of its group with probability 1/t. Of the j − 1 others before it in
    the group, each is relevant with probability (r − 1)/(t − 1), so that

        E = 1/t · Σ_j [a + 1 + (j − 1)(r − 1)/(t − 1)] / (g + j)
          = 1/t · [(a + 1) h + (r − 1)/(t − 1) · (t − (g + 1) h)]
        h = Σ_j 1/(g + j) = ψ(g + t + 1) − ψ(g + 1)

    The sum is that of McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in
    the Presence of Tied Scores", ECIR 2008; the second line uses (j − 1)/(g + j) = 1 − (g + 1)/(g + j).
    """
    harmonic = torch.digamma(above + tied + 1) - torch.digamma(above + 1)
    others = (relevant_tied - 1) / (tied - 1).clamp(min=1)
    return ((relevant_above + 1) * harmonic + others * (tied - (above + 1) * harmonic)) / tied


def _expected_inverse_last_rank(above: Tensor, tied: Tensor, relevant_tied: Tensor) -> Tensor:
    """E[1 / rank of the last relevant item], from the worst tie group that has one, `(q, 1)` each → `(q, 1)`.

    The last of r relevant items among t positions is at position l with probability C(l − 1, r − 1) / C(t, r): r/t
    for l = t, and a factor (l − r) / (l − 1) from each position to the one before it. Without ties only
    l = t is left.
    """
    place = tied - torch.arange(int((tied - relevant_tied).max()) + 1, device=above.device)
    step = (place - relevant_tied).clamp(min=0) / (place - 1).clamp(min=1)
    probability = torch.cat([relevant_tied / tied, step[:, :-1]], dim=1).cumprod(dim=1)
    return (probability / (above + place).clamp(min=1)).sum(dim=1, keepdim=True)
