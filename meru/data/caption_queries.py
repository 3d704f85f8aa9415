"""Queries of a caption: its sentences, its phrases for parts, and its clauses, each with a weight and a parent.

The caption hierarchy of Hyper3-CLIP (ECCV 2026 workshops): a query is more general than the caption it comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from meru.data.parts import PartWords

WEIGHTS = {"sentence": 1.0, "part": 0.75, "phrase": 0.5}  # by kind of query
MAXIMUM = 5  # queries of a caption; with the caption itself, the six of the source
SENTENCES = 5
FEWEST, MOST = 2, 8  # words of a phrase
WINDOW, STRIDE = 6, 4  # words; windows over longer phrases
CAPTION = -1  # as a parent

_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|[\r\n]+")
_PHRASE_ENDS = re.compile(r"[,;:()]|\b(?:and|with|near|beside|behind|under|above|around|next\s+to)\b", re.IGNORECASE)
_ARTICLES = ("a", "an", "the")
_EDGES = " \t\r\n.,;:!?()\"'"


class Query(NamedTuple):
    """A part of a caption's text.

    Args:
        text: Its words, without punctuation at the ends.
        kind: `sentence`, `part` or `phrase`.
        parent: Position of its parent among the queries of the caption, or `CAPTION`.
    """

    text: str
    kind: str
    parent: int


def caption_queries(caption: str, parts: Iterable[str] = (), *, maximum: int = MAXIMUM) -> list[Query]:
    """Split a caption into queries: sentences first, then phrases for parts, then other phrases.

    Sentences and phrases for parts have the caption as their parent, other phrases the first sentence. Texts that
    differ from the caption or an earlier query only in case, punctuation or an article at the beginning are left out;
    so is the sentence of a caption that is one sentence, and then the caption is the parent of phrases too.

    Args:
        caption: Any text.
        parts: Phrases for parts, see `PartWords.phrases`.
        maximum: Largest number of queries; the last ones are left out.
    """
    sentences = [text for text in _SENTENCE_ENDS.split(caption) if _plain(text)][:SENTENCES]
    texts = [
        *(("sentence", text) for text in sentences),
        *(("part", text) for text in parts),
        *(("phrase", text) for text in _phrases(caption)),
    ]
    queries: list[Query] = []
    seen = {"", _plain(caption)}
    for kind, text in texts:
        if _plain(text) not in seen:
            seen.add(_plain(text))
            has_sentence = bool(queries) and queries[0].kind == "sentence"
            queries.append(Query(text.strip(_EDGES), kind, 0 if kind == "phrase" and has_sentence else CAPTION))
    return queries[:maximum]


def query_entries(caption: str, *, words: PartWords, tokenize: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The queries of a caption as entries of a training sample.

    Args:
        caption: The caption that the sample trains with.
        words: The words for parts in captions; without any, there are no queries for parts.
        tokenize: Text → int64 `(L,)`.

    Returns:
        `query_tokens` int64 `(MAXIMUM, L)`, padded with 0; `query_weight` float32 `(MAXIMUM,)`, 0 where there is no
        query; `query_parent` int64 `(MAXIMUM,)`, a position among the queries, or `CAPTION`.
    """
    queries = caption_queries(caption, words.phrases(caption).values())
    absent = MAXIMUM - len(queries)
    tokens = [tokenize(query.text) for query in queries] + [torch.zeros(1, dtype=torch.int64)] * absent
    return {
        "query_tokens": pad_sequence(tokens, batch_first=True),
        "query_weight": torch.tensor([WEIGHTS[query.kind] for query in queries] + [0.0] * absent),
        "query_parent": torch.tensor([query.parent for query in queries] + [CAPTION] * absent),
    }


def _phrases(caption: str) -> Iterable[str]:
    """Pieces of a caption between commas and joining words, of 2 to 8 words; longer ones in windows of 6."""
    for sentence in _SENTENCE_ENDS.split(caption):
        for piece in _PHRASE_ENDS.split(sentence):
            words = piece.strip(_EDGES).split()
            if FEWEST <= len(words) <= MOST:
                yield " ".join(words)
            elif len(words) > MOST:
                for start in range(0, len(words) - WINDOW + STRIDE, STRIDE):
                    yield " ".join(words[start : start + WINDOW])


def _plain(text: str) -> str:
    """A text's words in lower case without the punctuation around them and without an article before them."""
    words = [word for each in text.lower().split() if (word := each.strip(_EDGES))]
    return " ".join(words[1:] if words and words[0] in _ARTICLES else words)
