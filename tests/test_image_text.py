"""Evaluation of a model from batches to figures, on embeddings known beforehand."""

import pytest
import torch
from torch import nn

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


CAPTIONS = [[f"a {WORDS[row // 2]} bird", "a bird"] for row in range(6)]


def evaluate(**arguments):
    return evaluate_image_text(
        Oracle(), batches(), captions=CAPTIONS, class_names=WORDS, tokenizer=tokenizer, device=DEVICE, **arguments
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
        model, batches(), captions=CAPTIONS, class_names=WORDS, tokenizer=tokenizer, device=DEVICE
    )
    assert model.training
