"""Cached pixels: the images at their size, found again, and made again when something changed or is damaged."""

import errno
import logging
import os
import pickle

import pytest
import torch
from PIL import Image

from meru.data.cache_files import BLOCK, stored_file
from meru.data.images import read_image
from meru.data.pixels import cached_pixels
from meru.data.views import resized
from meru.errors import UserError

READING = {"on_error": "raise", "maximum_pixels": 10**6, "decode": "exact"}
WORKERS = {"workers": 0, "timeout": 60}
SIZES = [(60, 80), (80, 60), (20, 70), (48, 48), (100, 33)]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    paths = []
    for number, (height, width) in enumerate(SIZES):
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
        paths.append(tmp_path / "images" / f"{number}.png")
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return paths


def cached(images, folder, chunk=2, **changes):
    reading = {**READING, **changes}
    return cached_pixels(images, side=32, folder=folder, reading=reading, workers=WORKERS, chunk=chunk)


def test_images_are_kept_with_their_shorter_side_and_full_size(images, tmp_path):
    found = cached(images, tmp_path / "cache")
    assert len(found) == 5 and len(list((tmp_path / "cache").glob("*.bin"))) == 3
    for path, size, (image, full) in zip(images, SIZES, found, strict=True):
        assert full == size and min(image.shape[1:]) == min(32, *size)
        assert torch.equal(image, resized(read_image(path), tuple(image.shape[1:])))
        assert image.permute(1, 2, 0).is_contiguous()
    copied = pickle.loads(pickle.dumps(found))
    assert not copied._mapped and torch.equal(copied[4].image, found[4].image)


def test_only_files_with_a_changed_image_are_made_again(images, tmp_path):
    cached(images, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.bin")}
    Image.new("RGB", (40, 40), (200, 0, 0)).save(images[2])
    found = cached(images, tmp_path / "cache")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.bin")}
    assert found[2].full == (40, 40) and found[2].image[0].min() == 200
    assert before.items() <= after.items() and len(after) == len(before) + 1


@pytest.mark.parametrize("damage", ["truncated", "other bytes"])
def test_a_damaged_file_is_made_again_with_one_line(damage, images, tmp_path, caplog):
    cached(images, tmp_path / "cache", chunk=5)
    (file,) = (tmp_path / "cache").glob("*.bin")
    content = file.read_bytes()
    file.write_bytes(content[:-9] if damage == "truncated" else bytes(len(content)))
    with caplog.at_level(logging.WARNING, logger="meru"):
        cached(images, tmp_path / "cache", chunk=5)
    assert file.read_bytes() == content
    assert [record.message for record in caplog.records] == [f"{file} is damaged and is computed again"]


def test_images_that_do_not_decode_are_skipped_or_named(images, tmp_path):
    images[3].write_bytes(b"<html>")
    with pytest.raises(UserError, match="3.png does not decode, it is a web page"):
        cached(images, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.bin"))) == 1  # the file before is kept for the next try
    found = cached(images, tmp_path / "cache", on_error="skip")
    assert found[3] is None and found[4].full == SIZES[4]


def test_a_full_disk_is_one_line_and_leaves_nothing(images, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"the disk is full.*data.cache=<folder>, or set data.image_cache=null"):
        cached(images, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_large_jpeg_files_may_be_decoded_at_a_reduced_size(tmp_path):
    Image.linear_gradient("L").convert("RGB").resize((400, 300)).save(tmp_path / "a.jpg", quality=95)
    exact = cached([tmp_path / "a.jpg"], tmp_path / "cache")
    scaled = cached([tmp_path / "a.jpg"], tmp_path / "cache", decode="scaled")
    assert scaled[0].full == exact[0].full == (300, 400) and scaled[0].image.shape == exact[0].image.shape
    assert 0 < (scaled[0].image.float() - exact[0].image.float()).abs().max() <= 6  # less than a pixel aside


def test_the_checksum_of_a_large_file_reads_blocks_all_over_it(tmp_path, monkeypatch):
    monkeypatch.setattr("meru.data.cache_files.BLOCKS", 2)
    content = torch.zeros(8 * BLOCK, dtype=torch.uint8)
    options = {"blocks": lambda: [content], "what": "zeros", "without": "it"}
    path = stored_file(tmp_path, "facts", **options)
    for place, noticed in ((0, True), (4 * BLOCK, True), (2 * BLOCK, False)):
        changed = content.clone()
        changed[place] = 1
        path.write_bytes(changed.numpy().tobytes())
        stored_file(tmp_path, "facts", **options)
        assert (path.read_bytes() == content.numpy().tobytes()) is noticed
        path.write_bytes(content.numpy().tobytes())
