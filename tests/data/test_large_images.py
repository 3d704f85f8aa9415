"""JPEG files above data.maximum_pixels are decoded at a reduced size, and windows in full pixels still fit."""

import pytest
import torch
from PIL import ExifTags, Image

from meru.data.images import image_size, read, read_image
from meru.data.views import cut
from meru.errors import UserError


def photograph(path, size, **saving):
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    image.save(path, **saving)
    return path


@pytest.mark.parametrize(
    ("size", "reduced"), [((200, 100), (100, 50)), ((400, 200), (100, 50)), ((799, 399), (100, 50))]
)
@pytest.mark.parametrize("exif", [False, True])
def test_a_jpeg_above_the_limit_is_decoded_at_a_reduced_size(tmp_path, size, reduced, exif):
    saving = {"exif": Image.Exif()} if exif else {}
    if exif:
        saving["exif"][ExifTags.Base.Orientation] = 6
    path = photograph(tmp_path / "a.jpg", size, **saving)
    image = read_image(path, maximum_pixels=100 * 51)
    expected = reduced if exif else reduced[::-1]
    assert image.shape == (3, *expected)
    first, last = (image[:, 2, 5], image[:, -2, 5]) if exif else (image[:, 5, 2], image[:, 5, -2])
    assert first[0] > 240 and last[2] > 240 and first[2] < 15
    full = size if exif else size[::-1]
    assert read(path, maximum_pixels=100 * 51).full == full == image_size(path, maximum_pixels=100 * 51)


def test_a_window_in_full_pixels_is_cut_from_a_reduced_image(tmp_path):
    path = photograph(tmp_path / "a.jpg", (400, 200))
    image = read_image(path, maximum_pixels=20_100)
    assert image.shape == (3, 100, 200)
    part = cut(image, (220, 40, 100, 60), full=read(path, maximum_pixels=20_100).full)
    assert part.shape == (3, 30, 50) and part[2].min() > 240
    assert cut(image, (399, 199, 1, 1), full=(200, 400)).shape == (3, 1, 1)
    whole = read_image(path)
    assert torch.equal(cut(whole, (30, 20, 11, 7), full=(200, 400)), whole[:, 20:27, 30:41])


@pytest.mark.parametrize(
    ("name", "size", "saving"),
    [("a.png", (200, 100), {}), ("a.jpg", (200, 100), {"progressive": True}), ("a.jpg", (900, 401), {})],
    ids=["not JPEG", "progressive", "too large even for an eighth"],
)
def test_other_large_images_are_refused(tmp_path, name, size, saving):
    path = photograph(tmp_path / name, size, **saving)
    with pytest.raises(UserError, match=f"has {size[0]} × {size[1]} pixels, above data.maximum_pixels=5100"):
        read_image(path, maximum_pixels=5100)
