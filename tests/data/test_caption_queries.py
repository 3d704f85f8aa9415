"""Queries of captions: what is split, what is left out, whose parent is whose, and the entries of a sample."""

import pickle
from functools import partial

import pytest
import torch

from meru.data.caption_queries import CAPTION, MAXIMUM, Query, caption_queries, query_entries
from meru.data.loading import collate
from meru.data.parts import PartWords

BIRDS = PartWords("bird", {"wing": ["wings"], "beak": ["bill"]})


def texts(caption, parts=(), maximum=99):
    return [query.text for query in caption_queries(caption, parts, maximum=maximum)]


@pytest.mark.parametrize(
    ("caption", "queries"),
    [
        ("", []),
        (" .,; \n", []),
        ("bird", []),
        ("a small grey bird.", []),  # the only sentence is the caption
        (
            "this bird is white with a red crown, and a short bill.",
            [("this bird is white", "phrase", CAPTION), ("a red crown", "phrase", CAPTION),
             ("a short bill", "phrase", CAPTION)],
        ),
        (
            "A man walks. He has a black bag and a red hat!\nIt rains",
            [("A man walks", "sentence", CAPTION), ("He has a black bag and a red hat", "sentence", CAPTION),
             ("It rains", "sentence", CAPTION), ("He has a black bag", "phrase", 0), ("a red hat", "phrase", 0)],
        ),
        ("red sand next  to grey sandy bands: a Red Sand", [("red sand", "phrase", CAPTION),
                                                           ("grey sandy bands", "phrase", CAPTION)]),
    ],
)  # fmt: skip
def test_queries_of_a_caption(caption, queries):
    assert caption_queries(caption) == [Query(*query) for query in queries]


def test_long_phrases_are_split_into_overlapping_windows():
    numbers = [str(number) for number in range(11)]
    assert texts("a b. " + " ".join(numbers[:8]))[-1] == "0 1 2 3 4 5 6 7"
    assert texts("a b, " + " ".join(numbers[:9]))[1:] == ["0 1 2 3 4 5", "4 5 6 7 8"]
    assert texts("a b, " + " ".join(numbers))[1:] == ["0 1 2 3 4 5", "4 5 6 7 8 9", "8 9 10"]


def test_parts_come_before_phrases_and_are_not_repeated_by_them():
    caption = "a bird with long wings and a red bill"
    assert [(query.text, query.kind) for query in caption_queries(caption, BIRDS.phrases(caption).values())] == [
        ("bird", "part"), ("long wings", "part"), ("red bill", "part"),
    ]  # fmt: skip


def test_at_most_five_sentences_and_the_maximum_of_queries():
    caption = " ".join(f"sentence {number}." for number in range(9))
    assert texts(caption)[:5] == [f"sentence {number}" for number in range(5)]
    assert [query.kind for query in caption_queries(caption, maximum=99)][5] == "phrase"
    assert len(caption_queries(caption)) == MAXIMUM


def tokenize(text):
    return torch.tensor([1, *(len(word) for word in text.split()), 9])


def test_entries_of_a_sample_are_padded_and_stacked():
    entries = partial(query_entries, words=BIRDS, tokenize=tokenize)
    pickle.loads(pickle.dumps(entries))  # workers get a copy
    samples = [
        {**entries(caption), "skipped": torch.tensor(0)}
        for caption in ("a bird. its wings are long and very white indeed, say all", "crow")
    ]
    assert samples[0]["query_weight"].tolist() == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert samples[0]["query_parent"].tolist() == [-1, -1, -1, 0, 0]
    assert samples[1]["query_weight"].tolist() == [0.0] * MAXIMUM
    batch = collate(samples)
    longest = samples[0]["query_tokens"].shape[1]
    assert batch["query_tokens"].shape == (2, MAXIMUM, longest) and batch["query_tokens"].dtype == torch.int64
    assert batch["query_tokens"][0, 0].tolist() == [1, 1, 4, 9] + [0] * (longest - 4)
    assert not batch["query_tokens"][1].any() and batch["query_parent"].dtype == torch.int64
