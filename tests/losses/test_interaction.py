"""Bidirectional attention and the losses on it, against loops; padding; where gradients stop."""

import math

import pytest
import torch
from torch.nn import functional as F

from meru.errors import UserError
from meru.layers.bidirectional_attention import BidirectionalAttention, Predictor, WordWindow, real_tokens
from meru.losses.interaction import late_interaction, patch_agreement, word_contrast, word_grounding

REAL = torch.tensor([[True, True, True, False], [True, True, False, False], [True, True, True, True]])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


@pytest.fixture
def sides():
    """Patches of three images, words of their captions."""
    return random(3, 5, 8), random(3, 4, 8, seed=1)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_attention_equals_the_printed_formula(sides, activation):
    patches, words = sides
    attention = BidirectionalAttention(dimension=8, activation=activation)
    seen = attention(patches, words, REAL)
    for b in range(3):
        own = words[b][REAL[b]]
        weights = attention.patch_query(patches[b]) @ attention.word_key(own).T / math.sqrt(8)
        weights = weights.sigmoid() if activation == "sigmoid" else weights.softmax(dim=-1)
        torch.testing.assert_close(seen.patch_attention[b][:, REAL[b]], weights)
        torch.testing.assert_close(seen.patch_context[b], weights @ attention.word_value(own))
        weights = attention.word_query(own) @ attention.patch_key(patches[b]).T / math.sqrt(8)
        weights = weights.sigmoid() if activation == "sigmoid" else weights.softmax(dim=-1)
        torch.testing.assert_close(seen.word_attention[b][REAL[b]], weights)
        torch.testing.assert_close(seen.word_context[b][REAL[b]], weights @ attention.patch_value(patches[b]))
    assert not seen.patch_attention.masked_select(~REAL[:, None]).any()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("scope", ["caption", "batch"])
def test_what_stands_at_padding_changes_nothing(sides, activation, scope):
    patches, words = sides
    attention, predictor = BidirectionalAttention(dimension=8, activation=activation), Predictor(dimension=8)

    def everything(words):
        seen = attention(patches, words, REAL)
        contrast = word_contrast(words, seen.word_context, REAL, 5.0, scope=scope)
        logits = attention.word_logits(words[REAL], random(15, 8)).unflatten(1, (3, 5))
        grounding = word_grounding(logits, REAL.nonzero()[:, 0])
        predicted = predictor(patches), predictor(seen.patch_context)
        agreement = patch_agreement(patches, seen.patch_context, *predicted)
        loss = contrast.sum() + grounding.sum() + agreement.sum()
        parameters = [*attention.parameters(), *predictor.parameters()]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [contrast, grounding, agreement, *(g for g in gradients if g is not None)]

    other = words.masked_fill(~REAL[..., None], 1e4)
    for one, two in zip(everything(words), everything(other), strict=True):
        torch.testing.assert_close(one, two)


def test_word_contrast_in_the_caption_equals_the_loops():
    words, contexts = random(3, 4, 8), random(3, 4, 8, seed=1)
    losses = word_contrast(words, contexts, REAL, 7.0)
    for b in range(3):
        for m in range(4):
            if not REAL[b, m]:
                assert losses[b, m] == 0
                continue
            logits = [7 * cosine(words[b, m], contexts[b, k]) for k in range(4) if REAL[b, k]]
            expected = math.log(sum(map(math.exp, logits))) - 7 * cosine(words[b, m], contexts[b, m])
            assert losses[b, m].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("labels", [None, [4, 4, 9]])
def test_word_contrast_in_the_batch_equals_the_loops(labels):
    words, contexts = random(3, 4, 8), random(3, 4, 8, seed=1)
    tensor = None if labels is None else torch.tensor(labels)
    losses = word_contrast(words, contexts, REAL, 7.0, scope="batch", labels=tensor)
    places = REAL.nonzero().tolist()
    for b, m in places:
        others = [(c, k) for c, k in places if c == b or labels is None or labels[c] != labels[b]]
        forth = [7 * cosine(words[b, m], contexts[c, k]) for c, k in others]
        back = [7 * cosine(contexts[b, m], words[c, k]) for c, k in others]
        own = 7 * cosine(words[b, m], contexts[b, m])
        expected = sum(0.5 * (math.log(sum(map(math.exp, logits))) - own) for logits in (forth, back))
        assert losses[b, m].item() == pytest.approx(expected, abs=1e-5)
    assert not losses[~REAL].any()


def test_word_grounding_equals_the_loops():
    attention, own = random(4, 3, 5) * 3, torch.tensor([0, 2, 2, 1])
    allowed = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    losses = word_grounding(attention, own, allowed)
    for m in range(4):
        masses = [sum(math.exp(a) for a in attention[m, j].tolist()) for j in range(3)]
        expected = -math.log(masses[own[m]] / sum(mass for j, mass in enumerate(masses) if allowed[m, j]))
        assert losses[m].item() == pytest.approx(expected, abs=1e-5)
    blind = word_grounding(torch.zeros(2, 3, 5), torch.tensor([0, 1]))
    torch.testing.assert_close(blind, torch.full((2,), math.log(3)))


def test_patch_agreement_equals_the_loops_and_stops_gradients_where_the_formula_says():
    patches, contexts = random(2, 3, 8).requires_grad_(), random(2, 3, 8, seed=1).requires_grad_()
    predictor = Predictor(dimension=8)
    predicted = predictor(patches), predictor(contexts)
    losses = patch_agreement(patches, contexts, *predicted)
    for b in range(2):
        for n in range(3):
            forth = cosine(predicted[0][b, n].detach(), contexts[b, n].detach())
            back = cosine(predicted[1][b, n].detach(), patches[b, n].detach())
            assert losses[b, n].item() == pytest.approx(-0.5 * (forth + back), abs=1e-5)
    # Through the predictor only: with its outputs cut off, nothing is left.
    cut = patch_agreement(patches, contexts, *(each.detach().requires_grad_() for each in predicted))
    assert torch.autograd.grad(cut.sum(), [patches, contexts], allow_unused=True) == (None, None)
    assert all(gradient.any() for gradient in torch.autograd.grad(losses.sum(), [patches, contexts]))


def test_late_interaction_equals_the_loops():
    similarity = random(int(REAL.sum()), 2, 5)
    scores = late_interaction(similarity, REAL)
    start = 0
    for b, count in enumerate(REAL.sum(dim=1).tolist()):
        for j in range(2):
            best = [max(similarity[start + m, j].tolist()) for m in range(count)]
            assert scores[b, j].item() == pytest.approx(sum(best) / count, abs=1e-6)
        start += count


def test_losses_are_float32_under_autocast():
    words, contexts = random(3, 4, 8), random(3, 4, 8, seed=1)
    expected = word_contrast(words, contexts, REAL, 7.0, scope="batch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(word_contrast(words, contexts, REAL, 7.0, scope="batch"), expected)
        attention = BidirectionalAttention(dimension=8)
        inside = attention.word_logits(words, contexts, 2.0)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(
        inside, 2 * F.normalize(attention.word_query(words), dim=-1) @ F.normalize(contexts, dim=-1).mT
    )
    seen = attention(contexts, words, REAL)
    torch.testing.assert_close(
        attention.word_logits(words, attention.patch_key(contexts)).sigmoid(), seen.word_attention
    )


def test_a_word_window_reads_so_many_tokens_and_none_that_follow():
    window, embeddings = WordWindow(width=6, dimension=8, size=3), random(1, 7, 6)
    before = window(embeddings)
    changed = embeddings.clone()
    changed[0, 3] += 1
    differs = (window(changed) != before).any(dim=-1)[0]
    assert differs.tolist() == [False, False, False, True, True, True, False]


def test_real_tokens_end_with_end_of_text():
    tokens = torch.tensor([[7, 3, 9, 0, 0], [7, 9, 0, 0, 0], [7, 3, 3, 3, 9]])
    assert real_tokens(tokens).sum(dim=1).tolist() == [3, 2, 5]


def test_unknown_activation_is_one_line():
    with pytest.raises(UserError, match="model.activation=tanh: choose one of sigmoid, softmax"):
        BidirectionalAttention(dimension=8, activation="tanh")
