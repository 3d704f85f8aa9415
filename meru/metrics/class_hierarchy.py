"""How far a wrong class is from the right one in a tree of classes.

The measures of Kosmopoulos et al., "Evaluation Measures for Hierarchical Classification: A Unified View and Novel
Approaches", 2015, which HyCoCLIP reports on WordNet (Pal et al., ICLR 2025). A is the set of a class and its
ancestors, the root included; p is the predicted class and t the true one:

    tree_induced_error       edges between p and t, |A_p| + |A_t| − 2 |A_p ∩ A_t|
    lowest_common_ancestor   |A_p| − |A_p ∩ A_t| + 1
    jaccard                  |A_p ∩ A_t| / |A_p ∪ A_t|
    precision, recall        |A_p ∩ A_t| / |A_p|,  |A_p ∩ A_t| / |A_t|

HyCoCLIP's evaluation leaves the class itself out of A, so that a wrong class beside the right one is as good as the
right one. Its published figures are those named `ancestors_only/…`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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
    of_sets = set_measures(paths, [path[-1] for path in paths])
    only_of_predicted = of_sets["lowest_common_ancestor"] - 1
    return {"tree_induced_error": only_of_predicted + only_of_predicted.T, **of_sets}


def set_measures(sets: Sequence[Collection[str]], classes: Sequence[str]) -> dict[str, Tensor]:
    """The measures of A_p and A_t, and with `ancestors_only/` before their names those without the classes themselves.

    Args:
        sets: For each of K classes, its node and all above it.
        classes: The node of each class.

    Returns:
        As `tree_measures`, without the tree-induced error.
    """
    nodes = {node: number for number, node in enumerate(dict.fromkeys(node for each in sets for node in each))}
    member = torch.zeros(len(sets), len(nodes), dtype=torch.float64)
    for number, each in enumerate(sets):
        member[number, [nodes[node] for node in each]] = 1
    above = member.clone()
    above[torch.arange(len(sets)), [nodes[name] for name in classes]] = 0
    only = {f"ancestors_only/{name}": values for name, values in _of_members(above).items()}
    return _of_members(member) | only


def _of_members(member: Tensor) -> dict[str, Tensor]:
    """The measures of sets, float64 `(K, nodes)`, 1 for members; two empty sets are equal."""
    size, common = member.sum(dim=1), member @ member.T
    predicted, true = size[:, None].expand_as(common), size.expand_as(common)
    union = predicted + true - common

    def share(of: Tensor) -> Tensor:
        return torch.where(union == 0, 1.0, common / of.clamp(min=1))

    return {
        "lowest_common_ancestor": predicted - common + 1,
        "jaccard": share(union),
        "precision": share(predicted),
        "recall": share(true),
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
    found = tree_measures(family_paths(families))
    measures = {f"hierarchy/{name}": each for name, each in found.items() if "/" not in name}
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
