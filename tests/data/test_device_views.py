"""Views taken on the device are those of the CPU, to one level, from the same random numbers."""

import pytest
import torch
from PIL import Image

from meru.data.device_views import padded, taken, untaken, waiting_views, with_views_taken
from meru.data.discovery.loading import TrainingViews
from meru.data.discovery.splits import DiscoverySplit
from meru.data.loading import collate
from meru.data.pairs import TrainingPairs
from meru.data.parts import Part
from meru.data.records import ImageRecord
from meru.data.transforms import discovery_transforms, training_transform
from meru.encoders.sizes import sides

SIZES = [(48, 64), (64, 48), (31, 97), (20, 20), (5, 90), (32, 32), (75, 100), (200, 150)]


def noise(height, width, seed=0):
    """The hardest picture: every pixel is 0 or 255, where rounding between the directions shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (3, height, width), dtype=torch.uint8, generator=generator) * 255


TRANSFORMS = {
    "square": (training_transform(32), 32),
    "small crops": (training_transform(32, scale=(0.05, 0.3)), 32),
    "rectangle": (training_transform((48, 16)), (48, 16)),
    "discovery": (discovery_transforms(28).training, 28),
}


@pytest.mark.parametrize(
    ("name", "views"), [*((name, 1) for name in TRANSFORMS), ("discovery", 2)]  # two views need one window
)
def test_views_are_those_of_the_cpu_to_one_level(name, views):
    transform, size = TRANSFORMS[name]
    images = [noise(*each, seed=seed) for seed, each in enumerate(SIZES)]
    torch.manual_seed(3)
    expected = torch.stack([torch.stack([transform(image) for _ in range(views)]) for image in images])
    torch.manual_seed(3)
    waiting = [
        untaken(image, [transform.draw(*image.shape[1:]) for _ in range(views)], size, full=tuple(image.shape[1:]))
        for image in images
    ]
    result = taken(padded([part for part, _ in waiting]), torch.stack([numbers for _, numbers in waiting]), sides(size))
    assert result.dtype == torch.uint8 and result.shape == (expected.squeeze(1) if views == 1 else expected).shape
    difference = (result.float() - expected.view_as(result).float()).abs()
    assert difference.max() <= 1 and difference.mean() < 0.02


def test_views_with_different_windows_are_refused():
    transform, image = training_transform(8), noise(40, 40)
    with pytest.raises(ValueError, match="different windows"):
        untaken(image, [transform.draw(40, 40) for _ in range(9)], 8, full=(40, 40))


def test_a_batch_without_waiting_views_is_left_as_it_is():
    batch = {"image": noise(4, 4)[None], "tokens": torch.ones(1, 3)}
    assert waiting_views(batch) == {} and with_views_taken(batch, {}) == batch


class _Words:
    """Draws the same window of every image as its part."""

    def __call__(self, record, *, height, width, caption):
        return Part((2, 3, 20, 15), "a beak")


def test_training_pairs_with_parts_make_the_same_batch_on_the_device(tmp_path):
    records = []
    for number, size in enumerate(SIZES[:4]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise(*size, seed=number).permute(1, 2, 0).numpy()).save(path)
        records.append(ImageRecord(path, number, ("a bird",)))
    batches = {}
    for place in ("cpu", "device"):
        data = TrainingPairs(
            records,
            transform=training_transform(16),
            tokenize=lambda text: torch.arange(1, 1 + len(text)),
            seed=0,
            parts=_Words(),
            augment_on=place,
        )
        batches[place] = collate(data.__getitems__([(1, index) for index in range(4)]))
    assert {"image_view", "part_image_view"} <= batches["device"].keys()
    assert batches["device"]["image"].shape[1:] != (3, 16, 16)
    done = with_views_taken(batches["device"], waiting_views(batches["device"]))
    assert done.keys() == batches["cpu"].keys()
    for name, value in batches["cpu"].items():
        assert (done[name].float() - value.float()).abs().max() <= (1 if "image" in name and value.dim() == 4 else 0)


def test_two_views_of_discovery_are_the_same_on_the_device():
    images = torch.stack([noise(40, 52, seed) for seed in range(3)])
    split = DiscoverySplit(images, torch.tensor([0, 1, 2]), torch.tensor([True, True, False]))
    pairs = {
        place: collate(
            TrainingViews(split, transform=discovery_transforms(28).training, seed=1, augment_on=place).__getitems__(
                [(0, 0), (0, 1), (0, 2)]
            )
        )
        for place in ("cpu", "device")
    }
    done = with_views_taken(pairs["device"], waiting_views(pairs["device"]))
    assert pairs["device"]["image"].shape == (3, 3, 40, 52)  # each image travels once
    assert done["image"].shape == (3, 2, 3, 28, 28)
    assert (done["image"].float() - pairs["cpu"]["image"].float()).abs().max() <= 1
    assert torch.equal(done["label"], pairs["cpu"]["label"])
