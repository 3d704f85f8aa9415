"""Transforms give squares of uint8, and every kind of image file becomes RGB."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from meru.data.images import read_image
from meru.data.transforms import EvaluationTransform, training_transform
from meru.errors import UserError


class TestTransforms:
    @pytest.mark.parametrize("size", [(48, 64), (64, 48), (20, 20), (5, 90)])
    def test_square_uint8(self, size):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        for transform in (training_transform(32), EvaluationTransform(32), EvaluationTransform(32, squash=True)):
            result = pickle.loads(pickle.dumps(transform))(image)
            assert result.shape == (3, 32, 32)
            assert result.dtype == torch.uint8

    def test_squash_keeps_what_the_centre_crop_cuts_off(self):
        image = torch.zeros(3, 32, 96, dtype=torch.uint8)
        image[:, :, 80:] = 255  # the right sixth
        assert EvaluationTransform(32)(image).max() == 0
        assert EvaluationTransform(32, squash=True)(image)[:, :, -3:].min() > 200

    def test_flip_can_be_turned_off(self):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[:, :, :16] = 255
        brighter_left = {
            flip: {
                bool(result[..., :16].sum() > result[..., 16:].sum())
                for result in (training_transform(32, scale=(0.9, 1.0), flip=flip)(image) for _ in range(30))
            }
            for flip in (True, False)
        }
        assert brighter_left == {True: {True, False}, False: {True}}

    @pytest.mark.parametrize(
        ("mode", "suffix"),
        [("L", "jpg"), ("CMYK", "jpg"), ("RGB", "jpg"), ("P", "png"), ("RGBA", "png"), ("LA", "png"), ("I;16", "png")],
    )
    def test_every_kind_of_file_becomes_rgb(self, tmp_path, mode, suffix):
        path = tmp_path / f"image.{suffix}"
        if mode == "I;16":
            Image.fromarray(np.full((20, 30), 204 * 257, dtype=np.uint16)).save(path)
        else:
            Image.new("RGBA" if mode.endswith("A") else "RGB", (30, 20), (204,) * 3).convert(mode).save(path)
        image = read_image(path)
        assert image.shape == (3, 20, 30)
        assert image.dtype == torch.uint8
        assert (image.float() - 204).abs().max() <= 3

    @pytest.mark.parametrize("content", [None, b"", b"<html>not found</html>", "half"])
    def test_a_file_that_does_not_decode_is_named(self, tmp_path, content):
        path = tmp_path / "bird.jpg"
        if content == "half":
            Image.effect_noise((64, 48), 40).save(path)
            content = path.read_bytes()[: path.stat().st_size // 2]
            path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_image(path)
        assert str(path) in str(error.value)
        assert "data.on_error=skip" in str(error.value)
        assert "\n" not in str(error.value) and ".cpp" not in str(error.value)
        assert error.value.exit_code == 1
