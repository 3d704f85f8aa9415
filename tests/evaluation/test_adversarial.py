"""Attacks on a model whose weakest pixels are known, and changes of captions."""

import random

import pytest
import torch
from torch.nn import functional as F

from meru.errors import UserError
from meru.evaluation.adversarial import ATTACKS, attacked, checkpoints, cross_entropy, logits_ratio, margin
from meru.evaluation.attacks import by_group, radius_auroc
from meru.evaluation.caption_attacks import CHANGES, SYNONYMS, changed_caption

WEIGHTS = torch.randn(3 * 6 * 6, 5, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def scores(images):
    return images.flatten(1) @ WEIGHTS


RIGHT = F.one_hot(scores(IMAGES / 255).argmax(dim=1), 5).bool()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("strength", [1, 8])
def test_an_attack_stays_within_its_strength_and_lowers_the_margin(name, strength):
    found = attacked(ATTACKS[name], IMAGES, scores, RIGHT, strength=strength, steps=8)
    assert found.dtype == torch.uint8
    assert int((found.int() - IMAGES.int()).abs().max()) == strength
    before, after = (margin(scores(each / 255), RIGHT) for each in (IMAGES, found))
    assert (after < before).all()


def test_the_objective_of_a_linear_model_reaches_its_maximum():
    two = torch.tensor([[True, False, False]]).expand(4, 3)
    towards = torch.zeros(108, 3)
    towards[:, 1] = WEIGHTS[:, 0]  # the wrong candidate 1 gains by the sign of these weights, and nothing else matters

    def linear(images):
        return images.flatten(1) @ towards

    found = attacked(ATTACKS["apgd_ce"], IMAGES, linear, two, strength=3, steps=20)
    best = (IMAGES.int() + 3 * WEIGHTS[:, 0].sign().view(3, 6, 6).int()).clamp(0, 255)
    assert torch.equal(found.int(), best)


def test_the_same_image_is_attacked_alike_in_any_batch():
    attack = ATTACKS["apgd_dlr"]
    settings = {"strength": 4, "steps": 6}
    together = attacked(attack, IMAGES, scores, RIGHT, **settings)
    assert torch.equal(together, attacked(attack, IMAGES, scores, RIGHT, **settings))
    turned = attacked(attack, IMAGES.flip(0), scores, RIGHT.flip(0), **settings)
    assert torch.equal(together, turned.flip(0))


def test_another_seed_starts_elsewhere():
    def bumpy(images):
        return (300 * images).sin().flatten(1) @ WEIGHTS

    found = [attacked(ATTACKS["pgd"], IMAGES, bumpy, RIGHT, strength=4, steps=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_objectives_by_hand():
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
    one, several = torch.tensor([[True, False, False, False]]), torch.tensor([[True, False, True, False]])
    assert margin(logits, one).item() == 1 and margin(logits, several).item() == 3
    assert logits_ratio(logits, one).item() == pytest.approx(-(4 - 3) / (4 - 1))
    assert logits_ratio(logits, several).item() == pytest.approx(-(4 - 1) / (4 - 0))
    assert cross_entropy(logits, one).item() == pytest.approx(-logits.log_softmax(1)[0, 0].item())
    assert cross_entropy(logits, several).item() == pytest.approx(-logits.softmax(1)[0, [0, 2]].sum().log().item())


def test_checkpoints_are_those_of_the_paper():
    assert sorted(checkpoints(100)) == [22, 41, 58, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("kind", ["no graph", "other parameters"])
def test_a_model_without_gradients_is_one_line(kind):
    weights = WEIGHTS.clone().requires_grad_(kind == "other parameters")

    def frozen(images):
        return images.detach().flatten(1) @ weights

    with pytest.raises(UserError, match="no gradient with respect to the pixels.*name a model") as caught:
        attacked(ATTACKS["pgd"], IMAGES, frozen, RIGHT, strength=1, steps=1)
    assert "\n" not in str(caught.value)


def test_auroc_by_hand():
    clean, after = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 4.0])
    assert radius_auroc(clean, after) == pytest.approx(5 / 6)  # of six pairs, 2.5 is nearer than 3 in one
    assert radius_auroc(after, clean) == pytest.approx(1 / 6)
    assert radius_auroc(clean, clean) == 0.5
    assert radius_auroc(torch.ones(3), torch.ones(3) + 1e-7) is None


def test_candidates_are_summed_by_group_also_far_from_the_best():
    logits = torch.tensor([[900.0, 1.0, 2.0, -500.0]], requires_grad=True)
    grouped = by_group(logits, torch.tensor([0, 1, 1, 2]))
    expected = [900.0, torch.tensor([1.0, 2.0]).logsumexp(0).item(), -500.0]
    assert grouped[0].tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(grouped.sum(), logits)
    assert gradient[0].tolist() == pytest.approx([1, 1 / (1 + torch.e), torch.e / (1 + torch.e), 1])


def test_captions_change_as_they_say_and_the_same_for_a_seed():
    caption = "a small bird with a long beak, grey wings and red feet"
    words = caption.split()
    changed = {change: changed_caption(caption, change, draw=0).split() for change in CHANGES}
    assert len(changed["deletion"]) == len(words) - round(0.2 * len(words))
    assert sorted(changed["order"]) == sorted(words) and changed["order"] != words
    pairs = zip(changed["synonyms"], words, strict=True)
    assert all(new == old or new.rstrip(",") in SYNONYMS[old.rstrip(",")] for new, old in pairs)
    draws = [changed_caption(caption, "synonyms", draw=draw).split() for draw in range(20)]
    assert {drawn[words.index("beak,")] for drawn in draws} == {"bill,", "beak,"}
    for change in CHANGES:
        assert changed_caption(caption, change, draw=0).split() == changed[change]
    assert changed_caption(caption, "order", draw=1).split() != changed["order"]
    assert changed_caption("bird", "deletion", draw=0) == changed_caption("bird", "order", draw=0) == "bird"
    assert CHANGES["deletion"](["one", "two"], random.Random(0)) in (["one"], ["two"])
