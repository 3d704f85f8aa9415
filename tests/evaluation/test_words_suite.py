"""`suite=words`: images of old and new classes grouped by images and captions, and names for the classes found."""

import csv
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from meru.data.discovery.described import DescribedDiscovery, described
from meru.data.discovery.splits import DiscoveryData, DiscoverySplit
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError
from meru.evaluation.words import evaluate_words, format_words, words_figure

CLASSES = ("red tanager", "blue jay", "green parrot", "grey heron")
COLOURS = ("red", "blue", "green", "grey")
EACH = 6


def paths(split):
    return tuple(Path(f"{split}_{number}.jpg") for number in range(len(CLASSES) * EACH))


def data():
    """Four classes, two of them old; a third of the old images are labelled."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(EACH)
    labelled = (labels < 2) & (torch.arange(len(labels)) % 3 == 0)
    splits = [
        DiscoverySplit(paths(name), labels, known) for name, known in (("train", labelled), ("test", labelled < 0))
    ]
    captions = tuple((f"a {COLOURS[label]} bird", f"the bird is {COLOURS[label]}") for label in labels.tolist())
    return DescribedDiscovery(DiscoveryData(CLASSES, 2, *splits), captions, captions)


class Model:
    """Its tower sees nothing of the classes; its captions tell them apart by their colour."""

    def image_features(self, images):
        return torch.randn(len(images), 8, generator=torch.Generator().manual_seed(int(images[0, 0, 0, 0])))

    embed_image = image_features

    def embed_text(self, tokens):
        return F.one_hot(tokens[:, 0], 4).float() + 0.01

    def average(self, embeddings):
        return embeddings.mean(dim=0)


def subject(of=None, *, split=None, decodes=True):
    found = of or data()

    def batches(images, known):
        kept = slice(None) if decodes else slice(1)
        pictures = torch.arange(len(images), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
        return [{"image": pictures[kept], **{name: values[kept] for name, values in known.items()}}]

    def tokenize(captions):
        return torch.tensor([[next(i for i, colour in enumerate(COLOURS) if colour in text)] for text in captions])

    return SimpleNamespace(
        model=Model(), data=found, batches=batches, tokenize=tokenize, settings={"split": split},
        device=torch.device("cpu"),
    )  # fmt: skip


def test_captions_find_the_classes_that_images_do_not_show_and_name_them():
    figures, files = evaluate_words(subject())
    assert [figures[f"captions/{group}/accuracy"] for group in ("all", "old", "new")] == [1.0, 1.0, 1.0]
    assert figures["tower/all/accuracy"] < 0.7 < figures["tower_captions/all/accuracy"]
    assert 0.2 < figures["captions/all/chance_accuracy"] < 0.7
    assert figures["names/accuracy"] == 1.0 and figures["names/chance_accuracy"] == 0.25
    rows = list(csv.DictReader(io.StringIO(files["classes.csv"])))
    assert {(row["class"], row["name"].split()[0]) for row in rows} == set(zip(CLASSES, COLOURS, strict=True))
    assert [row["new"] for row in rows if row["class"] == "green parrot"] == ["True"]
    assert {row["leads to the class"] for row in rows} == {"True"}
    assert any("red (red tanager)" in label.get_text() for label in files["tree.png"].axes[0].get_yticklabels())
    table = format_words(figures, "unlabelled images")
    assert "image tower and caption embeddings" in table
    assert "names of 4 classes found that lead to the class: 100.0" in table
    assert words_figure(figures, "title").axes


def test_what_the_suite_cannot_answer_is_one_line():
    labels = data().images.train.labels
    every = replace(data().images.train, labelled=labels < 2, labels=labels)
    few = DescribedDiscovery(replace(data().images, train=every.where(labels < 2)), data().train[:12], data().test)
    for given, said in (
        (subject(split="test"), "leave split out"),
        (subject(decodes=False), "needs every training image to decode"),
        (subject(few), "0 unlabelled images cannot be grouped into 4 classes"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_words(given)


def test_images_are_matched_with_their_captions_by_file():
    images = data().images
    records = [ImageRecord(path, 0, (path.name,)) for path in (*reversed(paths("train")), *paths("test"))]
    pairs = ImageTextData(CLASSES, tuple(records[:20]), tuple(records[20:24]), tuple(records[24:]))
    joined = described(images, pairs, source="birds")
    assert joined.train[0] == ("train_0.jpg",) and joined.test[-1] == ("test_23.jpg",)
    with pytest.raises(UserError, match=r"birds: train_23.jpg has no captions \(1 of 24 images\)"):
        described(images, replace(pairs, train=tuple(records[1:20])), source="birds")
    memory = replace(images, train=DiscoverySplit(torch.zeros(24, 3, 1, 1, dtype=torch.uint8), *_rest(images.train)))
    with pytest.raises(UserError, match="in memory, not in files"):
        described(memory, pairs, source="birds")


def _rest(split):
    return split.labels, split.labelled
