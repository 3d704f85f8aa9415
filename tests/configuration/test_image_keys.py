"""Keys for faster images that contradict others are one line."""

import pytest

from meru.configuration import check
from meru.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.image_cache=256", "data.cached_views=2"), "data.cached_views=2 reads every image only once"),
        (("data.augment_on=device", "data.cached_views=2"), "images are not augmented during training"),
        (("experiment=pedestrians_gahr", "data.augment_on=device"), "does not do data.image_augmentation"),
        (("data.augment_on=device", "data.corruptions=[fog]"), "does not do data.corruptions"),
        (("data.corruptions=[hail]",), "one of night, fog"),
        (("data.corruptions=[]",), "data.corruptions=[]"),
        (("data.corruption_share=2",), "from 0 to 1"),
        (("data.image_cache=0",), "give a whole number from 16 to 4096 (pixels), or null"),
        (("data.decode=fast",), "exact, scaled"),
    ],
)
def test_a_contradiction_is_named(words, message, compose):
    with pytest.raises(UserError) as caught:
        check(compose(*words), command="train")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_each_way_alone_is_accepted(compose):
    check(compose("data.image_cache=256", "data.augment_on=device", "data.decode=scaled"), command="train")
