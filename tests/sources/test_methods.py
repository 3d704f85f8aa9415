"""The methods of a loaded model take what people have: texts, tokens, images of Pillow, paths and tensors."""

import numpy as np
import pytest
import torch
from PIL import Image

from meru.assemble import Pretrained, build
from meru.errors import UserError

CAPTIONS = ["a red bird", "a bird with a long bill and green wings"]


@pytest.fixture(scope="module")
def loaded(compose):
    torch.manual_seed(0)
    pretrained = build(compose("encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A1", "name=small"))
    pretrained.model.eval()
    return pretrained


@pytest.fixture
def picture():
    """Wider than high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_a_loaded_model_still_unpacks_into_three(loaded):
    model, tokenizer, transforms = loaded
    assert isinstance(loaded, Pretrained) and loaded.to("cpu") is loaded
    assert model.image_size == 32 and tokenizer and transforms.evaluation


@torch.no_grad()
def test_images_in_any_form_have_one_embedding(loaded, picture, tmp_path):
    path = tmp_path / "a bird.png"
    picture.save(path)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    expected = loaded.model.embed_image(loaded.transforms.evaluation(pixels)[None])
    prepared = loaded.transform(picture)
    assert prepared.shape == (3, 32, 32) and prepared.dtype == torch.uint8
    for images in (picture, str(path), path, [picture], [path], [pixels], prepared, prepared[None], prepared / 255):
        torch.testing.assert_close(loaded.encode_image(images), expected, rtol=1e-4, atol=1e-5)
    assert loaded.encode_image([picture, path, pixels]).shape == (3, 128)


@torch.no_grad()
def test_texts_in_any_form_have_one_embedding(loaded):
    tokens = loaded.tokenizer(CAPTIONS)
    assert tokens.shape[0] == 2 and torch.equal(tokens, loaded.tokenizer.batch(CAPTIONS))
    padded = torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))
    both = loaded.encode_text(CAPTIONS)
    for texts in (tuple(CAPTIONS), tokens, padded):
        torch.testing.assert_close(loaded.encode_text(texts), both)
    for text in (CAPTIONS[0], loaded.tokenizer(CAPTIONS[0])):
        torch.testing.assert_close(loaded.encode_text(text), both[:1], rtol=1e-4, atol=1e-5)


def test_gradients_flow_and_similarity_has_a_row_for_each_text(loaded, picture):
    images, texts = loaded.encode_image([picture] * 3), loaded.encode_text(CAPTIONS)
    assert images.requires_grad and texts.requires_grad
    scores = loaded.similarity(texts, images)
    assert scores.shape == (2, 3) and loaded.similarity(texts[0], images[0]).shape == (1, 1)
    torch.testing.assert_close(scores, loaded.model.similarity(texts, images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), r"the model takes \(B, 3, 32, 32\); see `transform`"),
        (torch.zeros(2, 128), r"images of shape \(2, 128\)"),
        (torch.full((1, 3, 32, 32), -0.5), r"outside \[0, 1\]: give uint8, or floats in \[0, 1\]; the model"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "images of torch.int64"),
        ([], "no images: give a path, an image of Pillow, or a uint8 tensor"),
        (7, "no images"),
        ([7], "an image is of type int"),
        ([torch.zeros(3, 40, 60)], "an image is a tensor .* of torch.float32"),
        ("missing.jpg", "image .*missing.jpg cannot be read"),
    ],
)
def test_images_of_other_kinds_are_refused(images, message, loaded):
    with pytest.raises(UserError, match=message) as caught:
        loaded.encode_image(images)
    assert "\n" not in str(caught.value) and "data.on_error" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "captions: give a text, or a list of at least one"),
        ([CAPTIONS[0], 7], "captions: give a text"),
        (torch.zeros(2, 5), r"token ids are torch.float32 of shape \(2, 5\): give whole numbers"),
        (torch.zeros(1, 78, dtype=torch.int64), "78 token ids a caption: this model reads 77"),
        (torch.tensor([[49406, 60000]]), "token ids from 49406 to 60000: use the model's own tokenizer"),
    ],
)
def test_texts_of_other_kinds_are_refused(texts, message, loaded):
    with pytest.raises(UserError, match=message):
        loaded.encode_text(texts)


def test_an_image_of_pillow_is_turned_upright_as_its_file_is(loaded, picture, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        torch.testing.assert_close(loaded.transform(image).float(), loaded.transform(path).float(), rtol=0, atol=3)
    (tmp_path / "cut.jpg").write_bytes(path.read_bytes()[:1500])
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(UserError, match="cut.jpg does not decode"):
        loaded.transform(image)
