"""The words that set groups of captions apart, as names for discovered classes.

Monroe, Colaresi & Quinn, "Fightin' Words: Lexical Feature Selection and Evaluation for Identifying the Content of
Political Conflict", Political Analysis 2008, section 3.5: the log-odds of a word in one group against all others, with
a Dirichlet prior that follows the whole corpus, in units of its standard deviation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

PRIOR = 100.0  # strength of the prior, in images with a word
COMMON = 0.25  # least share of a group's images that have a word of its name
WORD = re.compile(r"[^\W\d_]{2,}")


def words_of(captions: Iterable[str]) -> set[str]:
    """The different words of some captions, in lower case, without numbers and single letters."""
    return {word for caption in captions for word in WORD.findall(caption.lower())}


class Vocabulary(NamedTuple):
    """The words of groups of captions.

    Attributes:
        words: W different ones, sorted.
        scores: How much each sets each group apart, z-scores `(G, W)`; 0 for a group without images.
        shares: Share of the images of each group that have the word, `(G, W)`.
    """

    words: list[str]
    scores: np.ndarray
    shares: np.ndarray


def vocabulary(captions: Sequence[Sequence[str]], groups: Tensor, number: int) -> Vocabulary:
    """Count the words of groups of images.

    A word counts once for an image, however many of its captions have it.

    Args:
        captions: The captions of each image.
        groups: The group of each image, 0 … `number` − 1, int64 `(n,)`; −1: in no group.
        number: G.
    """
    of_image = [words_of(each) for each in captions]
    words = sorted(set().union(*of_image))
    place = {word: column for column, word in enumerate(words)}
    counts, sizes = np.zeros((number, len(words))), np.zeros((number, 1))
    for found, group in zip(of_image, groups.tolist(), strict=True):
        if group >= 0:
            counts[group, [place[word] for word in found]] += 1
            sizes[group] += 1
    return Vocabulary(words, log_odds(counts), counts / sizes.clip(min=1))


def log_odds(counts: np.ndarray) -> np.ndarray:
    """z-scores of words in groups, `(G, W)`, from their counts `(G, W)`; 0 for a group without words."""
    total = counts.sum(axis=0)
    prior = PRIOR * total / max(total.sum(), 1.0)
    inside, outside = counts + prior, total - counts + prior
    all_inside, all_outside = inside.sum(axis=1, keepdims=True), outside.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.log(inside / (all_inside - inside)) - np.log(outside / (all_outside - outside))
        scores = odds / np.sqrt(1 / inside + 1 / outside)
    scores[~np.isfinite(scores)] = 0.0
    scores[counts.sum(axis=1) == 0] = 0.0
    return scores


def names_of(found: Vocabulary, *, most: int = 3) -> list[tuple[str, ...]]:
    """The `most` words that set each group apart, the highest score first; fewer if there are no more.

    Words that fewer than a quarter of the group's images have are left out: they are rare in all groups.
    """
    scores = np.where(found.shares >= COMMON, found.scores, 0.0)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    return [
        tuple(found.words[column] for column in row if scores[group, column] > 0)
        for group, row in enumerate(best.tolist())
    ]


def leading(names: Sequence[Sequence[str]], classes: Sequence[int], known: Vocabulary) -> list[bool]:
    """Whether each name leads to its class; see `naming_metrics`."""
    place = {word: column for column, word in enumerate(known.words)}
    asked = [([place[word] for word in name if word in place], true) for name, true in zip(names, classes, strict=True)]
    return [bool(columns) and int(known.scores[:, columns].sum(axis=1).argmax()) == true for columns, true in asked]


def naming_metrics(names: Sequence[Sequence[str]], classes: Sequence[int], known: Vocabulary) -> dict[str, float]:
    """Whether a reader who knows captions of other images would find the class that a name is meant for.

    The class is the one in which the words of the name have the highest sum of scores.

    Args:
        names: Words of each discovered class.
        classes: The class that each is assigned to, a group of `known`.
        known: The words of other images, by their true classes.

    Returns:
        `names/accuracy`, with its chance level 1 / K, and `names/count`; empty without names.
    """
    if not (right := leading(names, classes, known)):
        return {}
    return {
        "names/accuracy": float(np.mean(right)),
        "names/chance_accuracy": 1 / len(known.scores),
        "names/count": float(len(right)),
    }
