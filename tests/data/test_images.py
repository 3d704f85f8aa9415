"""Whatever people have for pictures is read as viewers show it, or named in one line."""

import contextlib
import errno
import io
import os
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torchvision.io import ImageReadMode, decode_image, read_file

from meru.data.images import MAXIMUM_PIXELS, image_size, read_image
from meru.data.loading import read_or_skip, reading_options
from meru.data.pairs import evaluation_loader
from meru.data.parts import CropParts, PartWords, part_places
from meru.data.records import ImageRecord
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError

# How a camera that was held some other way stored the upright picture: Pillow's name for undoing what viewers do.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}

NO_WORDS = PartWords("", {})


def picture():
    """48 × 32 pixels, blocks of 16 in six colours: no turn or mirror image of it is the same."""
    blocks = np.array([[(250, 0, 0), (0, 250, 0), (0, 0, 250)], [(250, 250, 0), (0, 0, 0), (250, 250, 250)]], np.uint8)
    return Image.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1))


def as_tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def error_of(path, **options):
    with pytest.raises(UserError) as error:
        read_image(path, **options)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and error.value.exit_code == 1
    return str(error.value)


def png(width, height, rows=b""):
    """A PNG of 8-bit RGB whose header says what it likes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    compressed = zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


class TestOrientation:
    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "PNG, EXIF at the end"])
    def test_the_picture_is_as_viewers_show_it(self, tmp_path, kind, orientation):
        stored = picture() if orientation == 1 else picture().transpose(STORED[orientation])
        path = tmp_path / "picture.jpg"
        options = {"exif": exif(orientation)}
        if kind == "MPO":
            options |= {"save_all": True, "append_images": [stored.rotate(180)]}
        if kind == "TIFF":
            options = {"tiffinfo": {0x0112: orientation}}
        if kind in ("JPEG", "MPO"):
            options |= {"quality": 100, "subsampling": 0}
        if kind == "WEBP":
            options["lossless"] = True
        stored.save(path, kind.split(",")[0], **options)
        if "end" in kind:
            content = path.read_bytes()
            start = content.index(b"eXIf") - 4
            chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
            assert content.index(b"IDAT") > start
            content = content.replace(chunk, b"")
            path.write_bytes(content[:-12] + chunk + content[-12:])
        image = read_image(path)
        assert image_size(path) == (32, 48)
        assert image.shape == (3, 32, 48) and (image.int() - as_tensor(picture()).int()).abs().max() <= 3

    @pytest.mark.parametrize("orientation", STORED)
    def test_box_and_parts_mean_the_turned_picture(self, tmp_path, orientation):
        """The green block is the middle one of the upper three; its centre is the part."""
        stored = picture() if orientation == 1 else picture().transpose(STORED[orientation])
        path = tmp_path / "bird.jpg"
        stored.save(path, exif=exif(orientation), quality=100, subsampling=0)
        record = ImageRecord(path, 0, ("a green beak",), box=(16.0, 0.0, 16.0, 16.0), parts={"beak": (24.0, 8.0)})
        image = read_image(path)
        left, top, width, height = CropParts(NO_WORDS, crops=["box"])(record, height=32, width=48, caption="").window
        assert (left, top, width, height) == (16, 0, 16, 16)
        crop = image[:, top : top + height, left : left + width].float()
        torch.testing.assert_close(crop.mean((1, 2)), torch.tensor([0.0, 250.0, 0.0]), atol=3, rtol=0)
        transform = EvaluationTransform(32, squash=True)
        (places,), (centre,) = part_places([record], transform)
        assert places["beak"].tolist() == [[0.5, 0.25]] and centre == (0.5, 0.25)
        x, y = (32 * places["beak"][0]).int().tolist()
        assert (transform(image)[:, y, x].int() - torch.tensor([0, 250, 0])).abs().max() <= 3

    @pytest.mark.parametrize("value", [0, 9, 65535])
    def test_other_values_turn_nothing(self, tmp_path, value):
        picture().save(tmp_path / "a.png", exif=exif(value))
        assert torch.equal(read_image(tmp_path / "a.png"), as_tensor(picture()))

    def test_damaged_exif_turns_nothing(self, tmp_path):
        picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff nonsense", quality=100)
        assert read_image(tmp_path / "a.jpg").shape == (3, 32, 48)


class TestKinds:
    @pytest.mark.parametrize(
        ("kind", "mode", "options"),
        [
            *((kind, "RGB", {}) for kind in ("BMP", "TIFF", "PPM", "TGA", "PCX", "ICO", "PNG", "GIF")),
            *((kind, "L", {}) for kind in ("BMP", "TIFF", "PPM", "PNG", "GIF")),
            *((kind, "P", {}) for kind in ("BMP", "TIFF", "PNG", "GIF")),
            *((kind, "1", {}) for kind in ("BMP", "TIFF", "PPM", "PNG")),
            *((kind, "RGBA", {}) for kind in ("TIFF", "PNG", "ICO", "TGA")),
            ("WEBP", "RGBA", {"lossless": True}),
            ("PNG", "LA", {}),
            ("PNG", "P", {"transparency": 0}),
            ("PNG", "P", {"transparency": bytes(range(256))}),
            ("GIF", "P", {"transparency": 0}),
            ("TIFF", "CMYK", {}),
            ("JPEG2000", "RGB", {"irreversible": False}),
        ],
    )
    def test_what_pillow_reads_becomes_rgb(self, tmp_path, kind, mode, options):
        if kind == "JPEG2000" and not features.check("jpg_2000"):
            pytest.skip("Pillow without JPEG 2000")
        made = picture().resize((48, 48)).convert(mode)
        path = tmp_path / "picture.jpg"  # whatever it is called
        made.save(path, kind, **options, **({"sizes": [(48, 48)]} if kind == "ICO" else {}))
        image = read_image(path)
        assert image.dtype == torch.uint8 and image_size(path) == (48, 48)
        assert torch.equal(image, as_tensor(made))

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
    def test_of_several_pictures_the_first_counts(self, tmp_path, kind):
        path = tmp_path / "several.jpg"
        others = [picture().rotate(180), Image.new("RGB", (48, 32))]
        options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "MPO" else {}
        picture().save(path, kind, save_all=True, append_images=others, **options)
        middles = slice(8, None, 16)  # JPEG blurs the edges of the blocks
        found, expected = (image[:, middles, middles].int() for image in (read_image(path), as_tensor(picture())))
        assert found.shape == (3, 2, 3) and (found - expected).abs().max() <= 3

    def test_avif(self, tmp_path):
        if not features.check("avif"):
            pytest.skip("Pillow without AVIF")
        picture().save(tmp_path / "a.jpg", "AVIF", quality=100, subsampling="4:4:4")
        assert (read_image(tmp_path / "a.jpg").int() - as_tensor(picture()).int()).abs().max() <= 8

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_of_16_bits_the_upper_8_count(self, tmp_path, kind):
        values = np.arange(0, 2**16, 64, dtype=np.uint16).reshape(32, 32)
        Image.fromarray(values).save(tmp_path / "grey", kind)
        image = read_image(tmp_path / "grey")
        expected = torch.from_numpy((values >> 8).astype(np.int32))
        assert (image.int() - expected).abs().max() <= 1 and image.shape == (3, 32, 32)

    def test_floating_point_values(self, tmp_path):
        for top, name in ((1.0, "shares"), (255.0, "bytes")):
            Image.fromarray(np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / name, "TIFF")
            assert torch.equal(read_image(tmp_path / name)[1].flatten(), torch.arange(256, dtype=torch.uint8))

    def test_cmyk_as_adobe_stores_it_and_not(self, tmp_path):
        picture().convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
        content = (tmp_path / "cmyk.jpg").read_bytes()
        assert content[6:11] == b"Adobe"
        (tmp_path / "without.jpg").write_bytes(content[:2] + content[18:])
        for name in ("cmyk.jpg", "without.jpg"):
            assert (read_image(tmp_path / name).int() - as_tensor(picture()).int()).abs().max() <= 4

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"icc_profile": b"x" * 300}, {"comment": b"bird"}])
    def test_ordinary_files_are_bit_for_bit_torchvision_s(self, tmp_path, options):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8))
        for name in ("a.jpg", "a.png"):
            noise.save(tmp_path / name, **(options if name == "a.jpg" else {}))
            expected = decode_image(read_file(str(tmp_path / name)), mode=ImageReadMode.RGB)
            assert torch.equal(read_image(tmp_path / name), expected)

    @pytest.mark.parametrize("size", [(1, 1), (4000, 3), (3, 4000)])
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
    def test_specks_and_ribbons(self, tmp_path, size, kind):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a", kind)
        record = ImageRecord(tmp_path / "a", 0, ("a",), box=(0.0, 0.0, 2.0, 2.0), parts={"beak": (0.0, 0.0)})
        assert read_image(tmp_path / "a").shape == (3, size[1], size[0])
        images = evaluation_loader([record], transform=EvaluationTransform(8), batch_size=1).dataset
        assert images[0]["image"].shape == (3, 8, 8)
        assert len(part_places([record], EvaluationTransform(8))[0]) == 1


class TestWhatIsNotAnImage:
    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", "a Git LFS pointer: run `git"),
            (b"/annex/objects/SHA256E-s12--34.jpg\n", "a git-annex pointer"),
            (b"", "is empty"),
            (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
            (b"\xef\xbb\xbf<HTML>", "a web page"),
            (b'{"message": "Not Found"}', "it is text"),
            (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is text"),
            (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
            (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "an AppleDouble file"),
            (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "a HEIC image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "an EPS drawing"),
            (bytes(5000), "contains only zeros"),
            (b"PK\x03\x04 whatever", "not an image of a known kind"),
        ],
    )
    def test_it_is_named(self, tmp_path, content, what):
        path = tmp_path / "bird.jpg"
        path.write_bytes(content)
        message = error_of(path)
        assert what in message and "data.on_error=skip" in message
        assert read_or_skip(path, on_error="skip") is None

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_a_file_that_was_cut_off(self, tmp_path, kind, share):
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        data = io.BytesIO()
        noise.save(data, kind)
        (tmp_path / "bird.jpg").write_bytes(data.getvalue()[: int(share * len(data.getvalue()))])
        assert "does not decode" in error_of(tmp_path / "bird.jpg")

    def test_damaged_data_of_a_png_is_an_error_and_not_the_end_of_the_process(self, tmp_path):
        Image.new("RGB", (200, 100), "red").save(tmp_path / "a.png")
        content, refused = bytearray((tmp_path / "a.png").read_bytes()), 0
        start = content.index(b"IDAT") + 4
        for place in range(start, start + 40):
            (tmp_path / "b.png").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
            with contextlib.suppress(UserError):
                read_image(tmp_path / "b.png")
                refused -= 1
            refused += 1
        assert refused > 20

    def test_what_is_no_file_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
        began = time.monotonic()
        assert "is a pipe" in error_of(tmp_path / "pipe.jpg")
        assert "is a folder" in error_of(tmp_path / "folder.jpg")
        assert "is a device" in error_of(Path("/dev/zero"))
        assert "symbolic link" in error_of(tmp_path / "broken.jpg")
        assert "No such file" in error_of(tmp_path / "nothing.jpg")
        with pytest.raises(UserError, match="is a pipe"):
            image_size(tmp_path / "pipe.jpg")
        assert time.monotonic() - began < 5

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, tmp_path):
        picture().save(tmp_path / "bird.jpg")
        (tmp_path / "bird.jpg").chmod(0)
        assert "Permission denied" in error_of(tmp_path / "bird.jpg")


class TestMaximumPixels:
    def test_a_bomb_is_not_decoded(self, tmp_path):
        (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000, bytes(100)))
        message = error_of(tmp_path / "bomb.png")
        assert "has 60000 × 60000 pixels" in message and f"data.maximum_pixels={MAXIMUM_PIXELS}" in message
        assert read_or_skip(tmp_path / "bomb.png", on_error="skip") is None

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
    def test_the_limit_is_the_last_size_that_is_read(self, tmp_path, kind):
        picture().save(tmp_path / "a", kind)
        assert read_image(tmp_path / "a", maximum_pixels=48 * 32).shape == (3, 32, 48)
        assert "has 48 × 32 pixels" in error_of(tmp_path / "a", maximum_pixels=48 * 32 - 1)

    @pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF", "TIFF"])
    def test_headers_of_other_kinds_are_believed_too(self, tmp_path, kind):
        """A header that tells of 60,000 × 60,000 pixels, where a small picture follows."""
        data = io.BytesIO()
        Image.new("RGB", (0x1234, 7)).save(data, kind)
        sides = {"JPEG": ">HH", "BMP": "<ii", "GIF": "<HH"}
        content = data.getvalue()
        if kind == "TIFF":
            for tag, side in ((256, 0x1234), (257, 7)):  # entries of one LONG or SHORT each
                for code in (3, 4):
                    old = struct.pack("<HHII", tag, code, 1, side)
                    content = content.replace(old, struct.pack("<HHII", tag, 4, 1, 60_000))
        else:
            order = (7, 0x1234) if kind == "JPEG" else (0x1234, 7)
            content = content.replace(struct.pack(sides[kind], *order), struct.pack(sides[kind], 60_000, 60_000))
        (tmp_path / "bomb").write_bytes(content)
        assert "pixels" in error_of(tmp_path / "bomb") and "data.maximum_pixels" in error_of(tmp_path / "bomb")

    def test_more_than_pillow_s_own_limit_may_be_allowed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        picture().save(tmp_path / "a.bmp")
        assert read_image(tmp_path / "a.bmp").shape == (3, 32, 48)

    def test_a_file_too_large_for_any_picture_is_not_read(self, tmp_path):
        with (tmp_path / "film.jpg").open("wb") as file:
            file.truncate(2**40)
        assert "MiB, more than data.maximum_pixels" in error_of(tmp_path / "film.jpg")

    def test_the_key(self, compose):
        section = compose("data=birds").data
        assert reading_options(section) == {"on_error": "raise", "maximum_pixels": MAXIMUM_PIXELS}
        assert reading_options({"on_error": "skip"}) == {"on_error": "skip", "maximum_pixels": MAXIMUM_PIXELS}
        for wrong in (0, -1, "many", 1.5, None, True):
            with pytest.raises(UserError, match=f"data.maximum_pixels={wrong}"):
                reading_options({"on_error": "raise", "maximum_pixels": wrong})

    def test_it_reaches_the_data_sets(self, tmp_path):
        picture().save(tmp_path / "a.jpg")
        records = [ImageRecord(tmp_path / "a.jpg", 0, ("a",))]
        data = evaluation_loader(records, transform=EvaluationTransform(8), batch_size=1, maximum_pixels=5).dataset
        with pytest.raises(UserError, match="has 48 × 32 pixels"):
            data[0]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ENOMEM])
def test_trouble_of_the_machine_is_not_taken_for_a_bad_picture(tmp_path, monkeypatch, number):
    """A picture would be skipped with data.on_error=skip, and missing without a word."""
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")

    def refuse(*_):
        raise OSError(number, os.strerror(number), str(tmp_path / "good.png"))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        read_or_skip(tmp_path / "good.png", on_error="skip")
