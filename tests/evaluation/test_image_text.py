"""Evaluation of a model from batches to figures, on embeddings known beforehand."""

import re

import pytest
import torch
from torch import nn

from meru.configuration import validation_figures
from meru.evaluation.image_text import embed_captions, embed_classes, evaluate_image_text

WORDS = ["red", "blue", "green"]
DEVICE = torch.device("cpu")


class Oracle(nn.Module):
    """An image is its class's unit vector, a caption that of the colour it names, else the sum of all."""

    def __init__(self):
        super().__init__()
        self.texts_seen = 0

    def embed_image(self, images):
        return images.float()

    def embed_text(self, tokens):
        self.texts_seen += len(tokens)
        return tokens.float()

    def similarity(self, queries, gallery):
        return queries @ gallery.t()

    def average(self, embeddings):
        return embeddings.mean(dim=-2)


def tokenizer(captions):
    named = [[float(word in caption) for word in WORDS] for caption in captions]
    return torch.tensor([row if any(row) else [1.0] * 3 for row in named])


def batches():
    """Six images, two of a class; record 4 was unreadable and is missing."""
    for rows in ([0, 1, 2], [3, 5]):
        yield {
            "image": torch.eye(3)[[row // 2 for row in rows]],
            "class_index": torch.tensor([row // 2 for row in rows]),
            "image_index": torch.tensor(rows),
        }


TEMPLATES = ["a photo of a {}.", "a {}"]
CAPTIONS = [[f"a {WORDS[row // 2]} bird", "a bird"] for row in range(6)]


def evaluate(**arguments):
    return evaluate_image_text(
        Oracle(),
        batches(),
        captions=CAPTIONS,
        class_names=WORDS,
        templates=TEMPLATES,
        tokenizer=tokenizer,
        device=DEVICE,
        **arguments,
    )


def test_specific_captions_find_their_class_and_empty_ones_are_at_chance():
    only_first = evaluate(captions_per_image=1)
    assert only_first["text_to_image/class/recall@1"] == 1.0
    assert only_first["text_to_image/image/recall@1"] == pytest.approx((4 * 0.5 + 1) / 5)  # ties are shared
    assert only_first["zero_shot/accuracy@1"] == only_first["class_captions/accuracy@1"] == 1.0
    both = evaluate()
    chance = both["text_to_image/class/chance_recall@1"]
    assert both["text_to_image/class/recall@1"] == pytest.approx((1 + chance) / 2)
    assert both["text_to_image/class/queries"] == 10  # the unreadable image's captions are not asked


def test_a_caption_that_many_images_share_is_embedded_once():
    model = Oracle()
    embeddings = embed_captions(model, ["a bird", "red", "a bird"], tokenizer=tokenizer, device=DEVICE, batch_size=1)
    assert model.texts_seen == 2
    assert torch.equal(embeddings[0], embeddings[2]) and embeddings[1].tolist() == [1, 0, 0]


def test_class_embeddings_average_the_prompts():
    embeddings = embed_classes(Oracle(), WORDS, tokenizer=tokenizer, device=DEVICE, templates=["a {}", "{} thing"])
    assert torch.equal(embeddings, torch.eye(3))


def test_the_model_is_left_in_the_mode_it_was_in():
    model = Oracle().train()
    evaluate_image_text(
        model, batches(), captions=CAPTIONS, class_names=WORDS, templates=TEMPLATES, tokenizer=tokenizer, device=DEVICE
    )
    assert model.training


class Table(nn.Module):
    """Embeddings are rows of the identity; the scores stand in a table."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores  # captions × images

    def embed_image(self, images):
        return images.float()

    def embed_text(self, tokens):
        return tokens.float()

    def similarity(self, queries, gallery):
        captions, images = self.scores.shape
        if queries.shape[1] == captions + images:
            whole = torch.zeros(captions + images, captions + images)
            whole[:captions, captions:] = self.scores
            return queries @ (whole + whole.T) @ gallery.T
        raise AssertionError("other embeddings than those given")


def persons(scores, identities):
    """Figures of captions 0, 1, … of the first images against all; embeddings are unit vectors, one for each."""
    captions, images = scores.shape
    basis = torch.eye(captions + images)
    batch = {
        "image": basis[captions:],
        "class_index": torch.tensor(identities),
        "image_index": torch.arange(images),
    }
    texts = [[str(row)] if row < captions else [] for row in range(images)]
    return evaluate_image_text(
        Table(scores),
        [batch],
        captions=texts,
        class_names=["0", "1", "2"],
        class_kind="identity",
        tokenizer=lambda captions: basis[[int(caption) for caption in captions]],
        device=DEVICE,
    )


def test_persons_are_found_by_identity_on_a_gallery_by_hand():
    """Three captions, five images of persons 0, 1, 2, 0, 1; ranks of the right ones: (1, 3), (2, 5), (4)."""
    scores = torch.tensor([[9.0, 5, 8, 7, 6], [9, 8, 7, 6, 5], [9, 8, 6, 7, 5]])
    figures = persons(scores, [0, 1, 2, 0, 1])
    row = "text_to_image/identity"
    assert figures[f"{row}/recall@1"] == pytest.approx(1 / 3)
    assert figures[f"{row}/recall@5"] == 1
    precision = [(1 / 1 + 2 / 3) / 2, (1 / 2 + 2 / 5) / 2, 1 / 4]
    assert figures[f"{row}/mean_average_precision"] == pytest.approx(sum(precision) / 3)
    assert figures[f"{row}/mean_inverse_negative_penalty"] == pytest.approx((2 / 3 + 2 / 5 + 1 / 4) / 3)
    assert figures[f"{row}/queries"] == 3 and figures[f"{row}/queries_without_match"] == 0
    # every embedding is at a right angle to every other: by cosine all are alike, which is chance
    cosine = "text_to_image/identity_cosine"
    assert figures[f"{cosine}/recall@1"] == pytest.approx(figures[f"{cosine}/chance_recall@1"])
    assert not any(name.startswith(("zero_shot", "class_captions", "text_to_image/class")) for name in figures)
    assert figures["image_to_text/identity/queries"] == 5


def test_persons_against_torchmetrics():
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

    generator = torch.Generator().manual_seed(0)
    images = 40
    scores = torch.rand(images, images, generator=generator)  # torchmetrics holds no score ≤ 0 for relevant
    identities = torch.randint(0, 3, (images,), generator=generator)
    figures = persons(scores, identities.tolist())
    right = identities[:, None] == identities
    query = torch.arange(images)[:, None].expand(images, images)
    flat = scores.flatten(), right.flatten(), query.flatten()
    for name, metric in {
        "recall@1": RetrievalHitRate(top_k=1),
        "recall@5": RetrievalHitRate(top_k=5),
        "mean_average_precision": RetrievalMAP(),
    }.items():
        expected = metric(flat[0], flat[1], indexes=flat[2]).item()
        assert figures[f"text_to_image/identity/{name}"] == pytest.approx(expected), name


@pytest.mark.parametrize("kind", ["class", "identity"])
def test_the_figures_that_may_choose_a_model_are_those_that_validation_gives(kind):
    given = {name for name in evaluate(class_kind=kind) if not re.search("chance_|queries|images$", name)}
    allowed = set(validation_figures(kind=kind, pointing=False))
    assert given == {name for name in allowed if not name.endswith("accuracy@5")}  # of three classes
