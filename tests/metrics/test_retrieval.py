"""Retrieval metrics against hand-made numbers, every order of the ties, and a loop-written reference."""

from __future__ import annotations

import itertools
import random
from statistics import mean

import pytest
import torch

from meru.errors import UserError
from meru.metrics.retrieval import image_text_retrieval, retrieval_metrics, top_k

KS = (1, 2, 3, 5, 10)
RECALLS = [f"recall@{k}" for k in KS]
NAMES = [*RECALLS, "mean_average_precision", "mean_inverse_negative_penalty"]


def from_scores(scores, query_labels, gallery_labels, **options):
    """Metrics of a given score matrix: the queries are its rows, the gallery unit vectors."""
    scores = torch.as_tensor(scores)
    return retrieval_metrics(
        scores,
        torch.eye(scores.shape[1], dtype=scores.dtype),
        query_labels=torch.as_tensor(query_labels),
        gallery_labels=torch.as_tensor(gallery_labels),
        similarity=lambda queries, gallery: queries @ gallery.T,
        ks=KS,
        **options,
    )


def metrics_of_order(relevant: list[bool]) -> list[float]:
    """The definitions, for one query whose gallery is in a given order."""
    ranks = [rank for rank, hit in enumerate(relevant, start=1) if hit]
    if not ranks:
        return [0.0] * len(NAMES)
    recall = [float(ranks[0] <= k) for k in KS]
    return [*recall, mean(found / rank for found, rank in enumerate(ranks, start=1)), len(ranks) / ranks[-1]]


def average(rows: list[list[float]]) -> list[float]:
    return [mean(column) for column in zip(*rows, strict=True)]


def brute_force(scores: list[float], relevant: list[bool]) -> list[float]:
    """The mean over all orders that sort the scores."""
    orders = itertools.permutations(range(len(scores)))
    falling = (o for o in orders if all(scores[i] >= scores[j] for i, j in itertools.pairwise(o)))
    return average([metrics_of_order([relevant[i] for i in order]) for order in falling])


def test_three_queries_five_items():
    metrics = from_scores(
        [[0.9, 0.1, 0.8, 0.3, 0.2], [0.5, 0.6, 0.7, 0.1, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5]],
        query_labels=[0, 1, 2],
        gallery_labels=[0, 0, 1, 1, 2],
    )
    # Relevant ranks: {1, 5}, {2, 5}, {1}.
    assert metrics["recall@1"] == pytest.approx(2 / 3)
    assert metrics["recall@2"] == 1.0
    assert metrics["mean_average_precision"] == pytest.approx(((1 + 2 / 5) / 2 + (1 / 2 + 2 / 5) / 2 + 1) / 3)
    assert metrics["mean_inverse_negative_penalty"] == pytest.approx((2 / 5 + 2 / 5 + 1) / 3)
    assert metrics["chance_recall@1"] == pytest.approx((2 / 5 + 2 / 5 + 1 / 5) / 3)
    assert metrics["chance_recall@2"] == pytest.approx((7 / 10 + 7 / 10 + 2 / 5) / 3)
    assert (metrics["queries"], metrics["queries_without_match"]) == (3, 0)


@pytest.mark.parametrize("seed", range(40))
def test_ties_equal_the_mean_over_all_orders(seed):
    rng = random.Random(seed)
    size = rng.randint(1, 6)
    scores = [float(rng.randrange(rng.choice([1, 2, 3]))) for _ in range(size)]
    relevant = [rng.random() < 0.5 for _ in range(size)]
    metrics = from_scores([scores], [1], [int(hit) for hit in relevant])
    assert [metrics[name] for name in NAMES] == pytest.approx(brute_force(scores, relevant), abs=1e-12)
    chance = brute_force([0.0] * size, relevant)
    assert [metrics[f"chance_{name}"] for name in NAMES] == pytest.approx(chance, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_data_against_loops(dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(37, 83, generator=generator, dtype=dtype)
    query_labels = torch.randint(0, 12, (37,), generator=generator)
    gallery_labels = torch.randint(2, 12, (83,), generator=generator)
    expected = []
    for row, label in zip(scores, query_labels, strict=True):
        order = row.argsort(descending=True)
        expected.append(metrics_of_order((gallery_labels[order] == label).tolist()))
    metrics = from_scores(scores, query_labels, gallery_labels, chunk_size=8)
    assert [metrics[name] for name in NAMES] == pytest.approx(average(expected))
    assert metrics["queries_without_match"] == sum(label < 2 for label in query_labels.tolist()) > 0


def test_gallery_order_and_chunks_do_not_matter():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 6, (19, 50), generator=generator).float()
    query_labels = torch.randint(0, 7, (19,), generator=generator)
    gallery_labels = torch.randint(0, 7, (50,), generator=generator)
    order = torch.randperm(50, generator=generator)
    expected = from_scores(scores, query_labels, gallery_labels)
    assert from_scores(scores[:, order], query_labels, gallery_labels[order]) == pytest.approx(expected)
    for size in (1, 4, 19, 100):
        assert from_scores(scores, query_labels, gallery_labels, chunk_size=size) == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, -0.0, -3.5, 1e30, 1e-44])
def test_constant_similarity_scores_chance(constant):
    gallery_labels = torch.arange(300) % 7 % 5
    queries, gallery = torch.zeros(11, 2), torch.zeros(300, 2)
    metrics = retrieval_metrics(
        queries,
        gallery,
        query_labels=torch.arange(11),
        gallery_labels=gallery_labels,
        similarity=lambda a, b: torch.full((len(a), len(b)), constant),
    )
    assert metrics["queries_without_match"] == 6
    for name in ("recall@1", "recall@10", "mean_average_precision", "mean_inverse_negative_penalty"):
        assert metrics[name] == pytest.approx(metrics[f"chance_{name}"], abs=1e-14)
        assert 0 < metrics[name] < 1


def test_neighbouring_floats_are_no_tie():
    one = torch.tensor(1.0)
    above = torch.nextafter(one, torch.tensor(2.0))
    metrics = from_scores(torch.stack([one, above])[None], [0], [0, 1])
    assert (metrics["recall@1"], metrics["recall@2"]) == (0.0, 1.0)


def test_chance_of_a_large_gallery_is_precise():
    # One relevant item: its rank is uniform, so AP = E[1/rank] = H_n / n.
    n = 20_000
    metrics = retrieval_metrics(
        torch.zeros(1, 1),
        torch.zeros(n, 1),
        query_labels=torch.tensor([0]),
        gallery_labels=torch.arange(n),
        similarity=lambda a, b: a @ b.T,
    )
    harmonic = sum(1 / i for i in range(1, n + 1))
    for prefix in ("", "chance_"):
        assert metrics[f"{prefix}recall@10"] == pytest.approx(10 / n, rel=1e-12)
        assert metrics[f"{prefix}mean_average_precision"] == pytest.approx(harmonic / n, rel=1e-9)
        assert metrics[f"{prefix}mean_inverse_negative_penalty"] == pytest.approx(harmonic / n, rel=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_score_names_the_query(bad):
    scores = torch.rand(9, 5)
    scores[6, 2] = bad
    with pytest.raises(UserError, match="query 6"):
        retrieval_metrics(
            torch.arange(9)[:, None],
            torch.zeros(5, 1),
            query_labels=torch.zeros(9, dtype=torch.long),
            gallery_labels=torch.zeros(5, dtype=torch.long),
            similarity=lambda queries, gallery: scores[queries[:, 0]],
            chunk_size=4,
        )


@pytest.mark.parametrize(
    ("scores", "query_labels", "gallery_labels", "words"),
    [
        (torch.zeros(0, 3), [], [0, 1, 2], "nothing to rank"),
        (torch.zeros(2, 0), [0, 1], [], "nothing to rank"),
        (torch.zeros(2, 3), [0], [0, 1, 2], "labels"),
        (torch.zeros(2, 3), {"image": torch.zeros(2)}, {"class": torch.zeros(3)}, "kinds"),
    ],
)
def test_what_does_not_fit_is_refused(scores, query_labels, gallery_labels, words):
    if not isinstance(query_labels, dict):
        query_labels, gallery_labels = torch.tensor(query_labels), torch.tensor(gallery_labels)
    with pytest.raises(ValueError, match=words):
        retrieval_metrics(
            scores,
            torch.eye(scores.shape[1]),
            query_labels=query_labels,
            gallery_labels=gallery_labels,
            similarity=lambda queries, gallery: queries @ gallery.T,
        )


def test_image_text_retrieval_is_both_directions_at_both_levels_in_one_pass():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(12, 4, generator=generator)
    texts = torch.randn(30, 4, generator=generator)
    text_image_index = torch.randint(0, 11, (30,), generator=generator)
    image_class_index = torch.arange(12) // 4
    calls = []

    def similarity(queries, gallery):
        calls.append(len(queries))
        return queries @ gallery.T

    metrics = image_text_retrieval(
        images,
        texts,
        text_image_index=text_image_index,
        image_class_index=image_class_index,
        similarity=similarity,
        chunk_size=10,
    )
    assert calls == [10, 10, 10, 10, 2]

    of_image, of_class = torch.arange(12), image_class_index
    expected = {
        "text_to_image/image": from_scores(texts @ images.T, text_image_index, of_image),
        "text_to_image/class": from_scores(texts @ images.T, of_class[text_image_index], of_class),
        "image_to_text/image": from_scores(images @ texts.T, of_image, text_image_index),
        "image_to_text/class": from_scores(images @ texts.T, of_class, of_class[text_image_index]),
    }
    assert expected["image_to_text/image"]["queries_without_match"] > 0
    for name, figure in metrics.items():
        level, _, metric = name.rpartition("/")
        assert figure == pytest.approx(expected[level][metric]), name
    assert len(metrics) == 4 * (2 * 5 + 2)


def test_text_of_no_image_is_refused():
    with pytest.raises(ValueError, match="text_image_index"):
        image_text_retrieval(
            torch.zeros(3, 2),
            torch.zeros(2, 2),
            text_image_index=torch.tensor([0, 3]),
            image_class_index=torch.zeros(3, dtype=torch.long),
            similarity=lambda a, b: a @ b.T,
        )


def test_top_k():
    scores = torch.rand(7, 9, generator=torch.Generator().manual_seed(3))
    best, index = top_k(scores, torch.eye(9), similarity=lambda a, b: a @ b.T, k=3, chunk_size=2)
    assert index.tolist() == scores.argsort(dim=1, descending=True)[:, :3].tolist()
    assert torch.equal(best, scores.gather(1, index))
    assert top_k(scores, torch.eye(9), similarity=lambda a, b: a @ b.T, k=50)[1].shape == (7, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_figures_on_a_gpu():
    generator = torch.Generator().manual_seed(4)
    scores = torch.randint(0, 9, (40, 200), generator=generator).float()
    query_labels = torch.randint(0, 9, (40,), generator=generator)
    gallery_labels = torch.randint(0, 9, (200,), generator=generator)
    expected = from_scores(scores, query_labels, gallery_labels)
    on_gpu = retrieval_metrics(
        scores.cuda(),
        torch.eye(200).cuda(),
        query_labels=query_labels,
        gallery_labels=gallery_labels,
        similarity=lambda a, b: a @ b.T,
        ks=KS,
    )
    assert on_gpu == pytest.approx(expected)
