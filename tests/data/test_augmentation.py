"""Pictures and captions of persons, changed at random but reproducibly."""

import pickle

import pytest
import torch
from omegaconf import OmegaConf
from torchvision.transforms.v2 import functional as F

from meru.assemble import build
from meru.data.augmentation import CaptionAugmentation, RandomPicks, augmentation_pool, caption_augmentation
from meru.data.records import ImageRecord
from meru.errors import UserError

POOL = ["colour", "rotation", "crop", "grey", "flip", "erasing"]
RECORD = ImageRecord("a.jpg", 0, ("a man in a red coat", "he wears red"), back_translations=("man with coat", "red"))


@pytest.fixture
def picture():
    return torch.randint(0, 256, (3, 60, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pictures_become_squares_and_follow_the_seed(picture):
    transform = pickle.loads(pickle.dumps(RandomPicks(32, pool=POOL, picks=2)))
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(torch.stack([transform(picture) for _ in range(6)]))
    assert results[0].shape == (6, 3, 32, 32) and results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert len({each.numpy().tobytes() for each in results[0]}) > 1


@pytest.mark.parametrize("name", POOL)
def test_each_of_the_pool_changes_some_pictures_and_keeps_their_kind(name, picture):
    torch.manual_seed(0)
    plain = RandomPicks(32, pool=POOL, picks=0)(picture)
    changed = [RandomPicks(32, pool=[name], picks=1)(picture) for _ in range(40)]
    assert all(each.shape == plain.shape and each.dtype == torch.uint8 for each in changed)
    assert any(not torch.equal(each, plain) for each in changed)
    assert sorted(POOL) == sorted(augmentation_pool(32))


def test_picks_are_with_replacement_and_as_many_as_asked_for(picture):
    transform = RandomPicks(32, pool=["flip"], picks=3)
    transform.pool[0].p = 1.0
    plain = RandomPicks(32, pool=[], picks=3)(picture)
    assert torch.equal(transform(picture), plain.flip(2))


def test_pictures_are_resized_as_pil_does_it(picture):
    """TBPS-CLIP resizes PIL images, bilinearly by torchvision's default."""
    picture = picture // 2 + 64  # the two round overshoots beyond black and white differently
    for name in ("bilinear", "bicubic"):
        expected = F.resize(F.to_pil_image(picture), [32, 32], interpolation=F.InterpolationMode(name))
        found = RandomPicks(32, pool=[], interpolation=name)(picture)
        assert (found.int() - F.pil_to_tensor(expected).int()).abs().max() <= 1
        assert augmentation_pool(32, interpolation=name)["crop"].interpolation == F.InterpolationMode(name)


def test_what_is_erased_turns_black():
    torch.manual_seed(0)
    erased = [RandomPicks(32, pool=["erasing"], picks=1)(torch.full((3, 32, 32), 200)) for _ in range(40)]
    black = torch.stack([(each == 0).all(dim=0).float().mean() for each in erased])
    assert all(set(each.unique().tolist()) <= {0, 200} for each in erased)
    assert 0.2 < (black > 0).float().mean() < 0.8 and black[black > 0].min() > 0.08 and black.max() < 0.22


def test_words_are_left_out_at_their_rate_and_never_all():
    torch.manual_seed(0)
    captions = [CaptionAugmentation(word_deletion=0.25, back_translation=0)(RECORD, 0) for _ in range(400)]
    lengths = [len(caption.split()) for caption in captions]
    assert sum(lengths) / len(lengths) == pytest.approx(6 * 0.75, abs=0.2)
    words = RECORD.captions[0].split()
    assert all(set(caption.split()) <= set(words) for caption in captions)
    assert {len(CaptionAugmentation(word_deletion=1.0, back_translation=0)(RECORD, 1).split()) for _ in range(9)} == {1}


def test_back_translations_stand_for_their_own_caption():
    always = CaptionAugmentation(word_deletion=0, back_translation=1.0)
    assert [always(RECORD, number) for number in (0, 1)] == list(RECORD.back_translations)
    bare = ImageRecord("a.jpg", 0, ("a man",))
    assert always(bare, 0) == "a man"
    torch.manual_seed(0)
    sometimes = CaptionAugmentation(word_deletion=0, back_translation=0.3)
    share = sum(sometimes(RECORD, 0) == "man with coat" for _ in range(500)) / 500
    assert share == pytest.approx(0.3, abs=0.07)


def test_no_section_means_no_augmentation():
    assert caption_augmentation(None) is None
    assert caption_augmentation({"word_deletion": 0.5, "back_translation": 0.0}).word_deletion == 0.5


def test_configurations_ask_for_it(compose):
    small = ["model=meru", "encoder.image.image_size=64", "encoder.text.architecture=L1_W16_A2"]
    persons = compose("data=cuhk_pedes", *small)
    transforms = build(persons).transforms
    assert isinstance(transforms.training, RandomPicks) and transforms.training.picks == 2
    assert len(transforms.training.pool) == len(POOL)
    assert transforms.training.resize.interpolation == F.InterpolationMode.BILINEAR
    assert transforms.evaluation.interpolation == F.InterpolationMode.BICUBIC
    del persons.data.image_augmentation.interpolation  # as in runs of older versions
    assert build(persons).transforms.training.resize.interpolation == F.InterpolationMode.BICUBIC
    assert transforms.evaluation.squash
    text = caption_augmentation(persons.data.text_augmentation)
    assert (text.word_deletion, text.back_translation) == (0.05, 0.1)

    birds = compose("data=birds", *small)
    assert birds.data.image_augmentation is None and caption_augmentation(birds.data.text_augmentation) is None
    older = OmegaConf.masked_copy(birds, list(birds))  # whose data section knew neither key
    older.data = OmegaConf.masked_copy(birds.data, [key for key in birds.data if not key.endswith("augmentation")])
    assert not isinstance(build(older).transforms.training, RandomPicks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomPicks(32, pool=["colour", "sepia"]), "image_augmentation.pool has no sepia"),
        (lambda: RandomPicks(32, pool=POOL, picks=-1), "picks=-1"),
        (lambda: RandomPicks(32, pool=POOL, interpolation="nearest"), "interpolation=nearest: choose one of bilinear"),
        (lambda: CaptionAugmentation(word_deletion=1.5), "word_deletion=1.5"),
        (lambda: CaptionAugmentation(back_translation=-0.1), "back_translation=-0.1"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(UserError, match=message):
        make()
