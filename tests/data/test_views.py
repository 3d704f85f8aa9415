"""Views equal torchvision's transforms bit by bit, and reduced images give the same views within a tolerance."""

import pickle

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from meru.data.augmentation import RandomPicks
from meru.data.cached_rows import transform_facts
from meru.data.images import read
from meru.data.loading import OrderedImages
from meru.data.transforms import EvaluationTransform, discovery_transforms, training_transform
from meru.data.views import RandomCropView, resized

BICUBIC = v2.InterpolationMode.BICUBIC
SIZES = [(48, 64), (64, 48), (31, 97), (20, 20), (5, 90), (32, 32), (75, 100)]


def picture(height, width, seed=0):
    """A smooth picture with some noise, stored with the colours of a pixel side by side, as decoders do."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", antialias=True)[0].clamp(0, 255)
    return smooth.byte().permute(1, 2, 0).contiguous().permute(2, 0, 1)


def drawn(transform, image, seed):
    torch.manual_seed(seed)
    return transform(image), torch.rand(1)  # and how many random numbers were used


PAIRS = {
    "crop and flip": (
        training_transform(32),
        v2.Compose([v2.RandomResizedCrop(32, scale=(0.5, 1.0), interpolation=BICUBIC), v2.RandomHorizontalFlip()]),
    ),
    "crop": (
        training_transform(32, scale=(0.1, 0.3), ratio=(0.5, 2.0), flip=False),
        v2.RandomResizedCrop(32, scale=(0.1, 0.3), ratio=(0.5, 2.0), interpolation=BICUBIC),
    ),
    "bilinear": (
        RandomCropView(24, scale=(0.9, 1.0), interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomResizedCrop(24, scale=(0.9, 1.0), interpolation=v2.InterpolationMode.BILINEAR),
    ),
    "discovery": (
        discovery_transforms(28).training,
        v2.Compose([v2.Resize(32, interpolation=BICUBIC), v2.RandomCrop(28), v2.RandomHorizontalFlip()]),
    ),
    "evaluation": (
        EvaluationTransform(28, crop_share=0.875),
        v2.Compose([v2.Resize(32, interpolation=BICUBIC), v2.CenterCrop(28)]),
    ),
    "squashed": (EvaluationTransform((24, 12)), v2.Resize((24, 12), interpolation=BICUBIC)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_views_are_those_of_torchvision_bit_by_bit_with_the_same_random_numbers(name):
    ours, theirs = PAIRS[name]
    ours = pickle.loads(pickle.dumps(ours))
    for seed, size in enumerate(SIZES * 3):
        image = picture(*size, seed=seed)
        mine, expected = drawn(ours, image, seed), drawn(theirs, image, seed)
        assert torch.equal(mine[0], expected[0]) and torch.equal(mine[1], expected[1]), size


def test_a_rectangle_is_cropped_in_proportion_to_the_image():
    image = picture(90, 40)
    crop = training_transform((30, 10), flip=False)
    proportional = v2.RandomResizedCrop(
        (30, 10), scale=(0.5, 1.0), ratio=(3 / 4 * 40 / 90, 4 / 3 * 40 / 90), interpolation=BICUBIC
    )
    for seed in range(20):
        assert torch.equal(drawn(crop, image, seed)[0], drawn(proportional, image, seed)[0])


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0), (0.9, 1.0)])
def test_spare_is_the_largest_reduction_that_enlarges_no_crop(scale):
    transform = training_transform(16, scale=scale)
    for size in SIZES:
        spare = transform.spare(*size)
        torch.manual_seed(0)
        windows = [transform.draw(*size).window for _ in range(300)]
        smallest = min(min(window[2:]) for window in windows) / 16
        assert spare <= smallest * 1.05 + 1 / 16, size  # crops are rounded to whole pixels
        assert spare >= 0.6 * smallest or size == (5, 90)


def test_spare_of_whole_images_is_that_of_their_sides():
    assert EvaluationTransform(32).spare(64, 128) == 2
    assert EvaluationTransform(32, squash=True).spare(64, 128) == 2
    assert RandomPicks(32, pool=[], picks=0).spare(320, 64) == 2


@pytest.mark.parametrize(("size", "factor"), [((640, 480), 4), ((300, 400), 2), ((150, 200), 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_scaled_decoding_reduces_a_jpeg_as_far_as_the_crops_allow(tmp_path, size, factor, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.fromarray(picture(*size).permute(1, 2, 0).numpy()).save(tmp_path / "a.jpg", quality=95, exif=exif)
    transform = training_transform(64)
    exact, scaled = read(tmp_path / "a.jpg"), read(tmp_path / "a.jpg", spare=transform.spare)
    assert scaled.full == exact.full == (size[::-1] if turned else size)
    assert scaled.image.shape[1] == -(-exact.full[0] // factor)
    for seed in range(10):
        full, _ = drawn(transform, exact.image, seed)
        torch.manual_seed(seed)
        reduced = transform(scaled.image, scaled.full)
        difference = (full.float() - reduced.float()).abs()
        assert difference.mean() < 3 and (factor > 1 or difference.max() == 0)


def test_scaled_decoding_leaves_other_files_as_they_are(tmp_path):
    Image.fromarray(picture(400, 400).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    data = {name: OrderedImages([tmp_path / "a.png"], {}, transform=training_transform(8), decode=name)
            for name in ("exact", "scaled")}  # fmt: skip
    assert data["scaled"].spare and data["exact"].spare is None
    assert torch.equal(data["exact"].decode(0).image, data["scaled"].decode(0).image)


def test_resizing_to_the_same_size_changes_nothing():
    image = picture(20, 30)
    assert resized(image, (20, 30)) is image
    assert resized(image.float(), (10, 15)).dtype == torch.float32


def test_facts_of_evaluation_are_those_of_indexes_made_before_views():
    facts = transform_facts(EvaluationTransform(224, crop_share=0.875))
    assert facts == (
        "[('', 'EvaluationTransform', [('image_size', '224'), ('side', '256'), ('squash', 'False')]), ('resize', "
        "'Resize', [('antialias', 'True'), ('interpolation', \"<InterpolationMode.BICUBIC: 'bicubic'>\"), ('max_size', "
        "'None'), ('size', '[256]')]), ('crop', 'CenterCrop', [('size', '(224, 224)')])]"
    )
    assert facts != transform_facts(EvaluationTransform(224)) != transform_facts(EvaluationTransform(224, squash=True))
