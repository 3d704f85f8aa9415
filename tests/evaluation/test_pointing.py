"""The pointing game on attention whose answer is known."""

import pytest
import torch
from torch import nn

from meru.encoders.text import CaptionTokenizer
from meru.evaluation.pointing import pointing_game

TOKENIZER = CaptionTokenizer(context_length=16)
SIDE = 4


class Looker(nn.Module):
    """Every word looks at the patch that the picture's first pixel names; words before "tail" everywhere."""

    patch_offset = 0.0

    def word_attention(self, images, tokens, image_of):
        attention = torch.zeros(*tokens.shape, SIDE**2)
        for caption, image in enumerate(image_of.tolist()):
            attention[caption, :, int(images[image, 0, 0, 0])] = 1
        return attention


def batches(*looks_at):
    images = torch.zeros(len(looks_at), 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(looks_at)
    yield {"image": images, "image_index": torch.arange(len(looks_at))}


def play(looks_at, captions, places, *, model=None, centres=None):
    return pointing_game(
        model or Looker(),
        batches(*looks_at),
        captions=captions,
        places=[{part: torch.tensor(points) for part, points in each.items()} for each in places],
        centres=centres or [(0.5, 0.5)] * len(looks_at),
        part_of_word={"bill": "beak", "beak": "beak", "eyes": "eye"},
        tokenize=TOKENIZER.batch,
        words=TOKENIZER.words,
        device=torch.device("cpu"),
        captions_at_once=2,
    )


def test_shares_by_part_and_over_all_beside_centre_and_chance():
    figures = play(
        [0, 10, 3],
        [["a bill", "a red beak and a tail"], ["eyes and a bill"], ["a bird"]],
        [
            {"beak": [[0.1, 0.2]], "tail": [[0.9, 0.9]]},  # patch 0: two hits; the tail is not asked for
            {"eye": [[0.6, 0.6], [0.0, 0.0]], "beak": [[0.99, 0.0]]},  # patches 10 and 0: a hit; patch 3: a miss
            {"beak": [[0.9, 0.1]]},  # not spoken of
        ],
    )
    assert figures["pointing/mentions"] == 4
    assert figures["pointing/accuracy@1"] == pytest.approx(3 / 4)
    assert figures["pointing/beak/accuracy@1"] == pytest.approx(2 / 3)
    assert figures["pointing/eye/accuracy@1"] == 1
    assert figures["pointing/mean_of_parts/accuracy@1"] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["pointing/eye/chance_accuracy@1"] == pytest.approx(2 / 16)
    assert figures["pointing/chance_accuracy@1"] == pytest.approx((1 + 1 + 2 + 1) / 16 / 4)
    assert figures["box_centre/accuracy@1"] == pytest.approx(1 / 4)  # patch 10 is the centre


def test_equal_weights_score_what_chance_scores():
    class Blind(Looker):
        def word_attention(self, images, tokens, image_of):
            return torch.ones(*tokens.shape, SIDE**2)

    figures = play([0], [["a bill"]], [{"beak": [[0.1, 0.2]]}], model=Blind())
    assert figures["pointing/accuracy@1"] == figures["pointing/chance_accuracy@1"] == pytest.approx(1 / 16)


def test_a_place_counts_for_the_patch_whose_view_is_centred_nearest():
    model = Looker()
    model.patch_offset = 0.5  # every patch is centred at the lower right corner of its square
    for look, place in ((0, 0.3), (0, 0.01), (5, 0.6), (15, 0.99)):
        figures = play([look], [["a bill"]], [{"beak": [[place, place]]}], model=model)
        assert figures["pointing/accuracy@1"] == 1, (look, place)


def test_nothing_to_point_at_gives_no_figures():
    assert play([0], [["a bill"]], [{}]) == {}
    assert play([0], [["a bird"]], [{"beak": [[0.1, 0.1]]}]) == {}


def test_the_model_stays_in_the_mode_it_was_in():
    model = Looker().train()
    play([0], [["a bill"]], [{"beak": [[0.1, 0.2]]}], model=model)
    assert model.training
