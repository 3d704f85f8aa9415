"""How far a wrong class is from the right one in a tree of classes.

The measures of Kosmopoulos et al., "Evaluation Measures for Hierarchical Classification: A Unified View and Novel
Approaches", 2015, as HyCoCLIP reports them on WordNet (Pal et al., ICLR 2025). A is the set of a class and its
ancestors, the root included; p is the predicted class and t the true one:

    tree_induced_error       edges between p and t, |A_p| + |A_t| − 2 |A_p ∩ A_t|
    lowest_common_ancestor   |A_p| − |A_p ∩ A_t| + 1
    jaccard                  |A_p ∩ A_t| / |A_p ∪ A_t|
    precision, recall        |A_p ∩ A_t| / |A_p|,  |A_p ∩ A_t| / |A_t|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meru.metrics.retrieval import Similarity, score_chunks


def family_paths(families: Sequence[str]) -> list[tuple[str, ...]]:
    """The ancestors of each class in the tree root – family – class, from the root to the class itself.

    Args:
        families: The family of each class.
    """
    return [("root", f"family {family}", f"class {number}") for number, family in enumerate(families)]


def tree_measures(paths: Sequence[Sequence[str]]) -> dict[str, Tensor]:
    """The measures of every pair of predicted and true classes.

    Args:
        paths: For each of K classes the nodes from the root to itself; equal names are the same node.

    Returns:
        Name → float64 `(K, K)`, a row per predicted class and a column per true one.
    """
    nodes = {node: number for number, node in enumerate(dict.fromkeys(node for path in paths for node in path))}
    member = torch.zeros(len(paths), len(nodes), dtype=torch.float64)
    for number, path in enumerate(paths):
        member[number, [nodes[node] for node in path]] = 1
    size, common = member.sum(dim=1), member @ member.T
    predicted, true = size[:, None].expand_as(common), size.expand_as(common)
    return {
        "tree_induced_error": predicted + true - 2 * common,
        "lowest_common_ancestor": predicted - common + 1,
        "jaccard": common / (predicted + true - common),
        "precision": common / predicted,
        "recall": common / true,
    }


@torch.no_grad()
def class_hierarchy_metrics(
    image_embeddings: Tensor,
    class_embeddings: Tensor,
    *,
    labels: Tensor,
    families: Sequence[str],
    similarity: Similarity,
    chunk_size: int = 1024,
) -> dict[str, float]:
    """Measures of the most similar class in the tree of families, as means over images.

    Among tied classes, each counts with equal probability.

    Args:
        image_embeddings: Shape `(n, D)`, n > 0.
        class_embeddings: Shape `(K, D)`.
        labels: Class of each image in 0 … K − 1, shape `(n,)`.
        families: Family of each class.
        similarity: As for `zero_shot_metrics`.
        chunk_size: Images scored at a time.

    Returns:
        `hierarchy/…` by the names above, and `family/accuracy@1`, the share of images whose most similar class is of
        the right family; each also as `…/chance_…`, the expectation of a class chosen at random.
    """
    measures = {f"hierarchy/{name}": each for name, each in tree_measures(family_paths(families)).items()}
    numbers = {family: number for number, family in enumerate(dict.fromkeys(families))}
    family = torch.tensor([numbers[each] for each in families])
    measures["family/accuracy@1"] = (family[:, None] == family).double()
    return expected_measures(
        image_embeddings,
        class_embeddings,
        labels=labels,
        measures=measures,
        similarity=similarity,
        chunk_size=chunk_size,
    )


@torch.no_grad()
def expected_measures(
    image_embeddings: Tensor,
    class_embeddings: Tensor,
    *,
    labels: Tensor,
    measures: Mapping[str, Tensor],
    similarity: Similarity,
    chunk_size: int = 1024,
) -> dict[str, float]:
    """Means over images of measures of the most similar class and the right one.

    Args:
        measures: Name → `(K, K)`, a row per predicted class and a column per true one.
        image_embeddings, class_embeddings, labels, similarity, chunk_size: As for `class_hierarchy_metrics`.

    Returns:
        The means by name, each also as `…/chance_…`, the expectation of a class chosen at random.
    """
    totals = dict.fromkeys(measures, 0.0)
    for rows, scores in score_chunks(image_embeddings, class_embeddings, similarity=similarity, chunk_size=chunk_size):
        best = (scores == scores.amax(dim=1, keepdim=True)).double().cpu()
        best /= best.sum(dim=1, keepdim=True)
        for name, of_pair in measures.items():
            totals[name] += float((best * of_pair[:, labels[rows].cpu()].T).sum())
    images = len(image_embeddings)
    figures = {name: total / images for name, total in totals.items()}
    for name, of_pair in measures.items():
        row, _, metric = name.rpartition("/")
        chance = f"{row}/chance_{metric}" if row else f"chance_{metric}"
        figures[chance] = float(of_pair.mean(dim=0)[labels.cpu()].mean())
    return figures
