"""Images of the index: small ones are made once, and no file but those of the index is opened."""

import io
import os
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from fake_page import FakePage, image_file, refusal_of

from meru.errors import UserError
from meru.page import thumbnails
from meru.page.thumbnails import Thumbnails

SECRET = image_file("PNG", colour="black")


@pytest.fixture
def page(tmp_path):
    (tmp_path / "secret.png").write_bytes(SECRET)
    return FakePage(tmp_path)


def thumbnail(page, place, **options):
    return page.client.get(f"/api/thumbnail/tiny/{place}", **options)


def gone(page, place):
    """The line about an image that is not what it was; the others are still answered."""
    line = refusal_of(thumbnail(page, place), 404)
    assert thumbnail(page, (place + 1) % 12).status_code == 200
    return line


def test_a_small_image_is_a_jpeg_of_the_size_that_was_asked_for(page):
    Image.new("RGB", (900, 300), "red").save(page.index.path(0))
    for size in (128, 256, 640):
        answer = thumbnail(page, 0, params={"size": size})
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (size, round(size / 3))
    assert Image.open(io.BytesIO(thumbnail(page, 1).content)).size == (41, 30)


def test_an_image_that_the_browser_has_is_not_sent_again_until_it_changes(page):
    tag = thumbnail(page, 0).headers["etag"]
    again = thumbnail(page, 0, headers={"if-none-match": tag})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
    assert thumbnail(page, 0, params={"size": 128}, headers={"if-none-match": tag}).status_code == 200
    os.utime(page.index.path(0), ns=(1, 1))
    assert thumbnail(page, 0, headers={"if-none-match": tag}).status_code == 200


def test_an_image_is_decoded_once_and_kept_within_the_bound(page, monkeypatch):
    decoded = []
    small = thumbnails._small
    monkeypatch.setattr(thumbnails, "_small", lambda image, size: decoded.append(1) or small(image, size))
    first = len(thumbnail(page, 0).content)
    thumbnail(page, 0)
    assert len(decoded) == 1
    kept = Thumbnails(most=2 * first + 10)
    for place in (0, 1, 2, 0):
        kept.get("tiny", page.index, place, size=256)
    assert kept._bytes <= 2 * first + 10 and len(decoded) == 5 and len(kept._kept) <= 2


def test_heads_are_hidden_where_a_list_or_the_shape_of_a_person_says(page):
    photos = Path(page.index.facts.images)
    (photos / "heads.csv").write_text(f"image,x,y,width,height\n{page.index.names[0]},0,0,20,30\n")
    Image.new("RGB", (60, 120), "red").save(page.index.path(1))  # as tall as a person
    kept = Thumbnails(hide_heads="cover", folders={"tiny": photos})

    def pixels(place):
        return Image.open(io.BytesIO(kept.get("tiny", page.index, place, size=256).content)).convert("RGB")

    def is_grey(colour):
        return all(abs(value - 128) < 12 for value in colour)

    listed, tall, wide = (pixels(place) for place in (0, 1, 2))
    assert is_grey(listed.getpixel((5, 15))) and not is_grey(listed.getpixel((35, 15)))
    assert is_grey(tall.getpixel((30, 5))) and not is_grey(tall.getpixel((30, 40)))
    assert not is_grey(wide.getpixel((10, 2)))
    (photos / "heads.csv").write_text("image,x\n")
    with pytest.raises(UserError, match="has no column y"):
        Thumbnails(hide_heads="cover", folders={"tiny": photos})


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("12", 404),
        ("999999999999", 404),
        ("9" * 5_000, 400),
        ("-1", 400),
        ("1.0", 400),
        ("%D9%A1", 400),
        ("1%20", 400),
        ("x", 400),
        ("..%2f..%2fsecret.png", 404),
        ("../../../etc/passwd", 404),
        ("", 404),
    ],
)
def test_only_numbers_of_the_index_are_images(page, place, status):
    refusal_of(thumbnail(page, place), status)


@pytest.mark.parametrize("size", ["0", "300", "100000", "x", "-128", ""])
def test_only_the_sizes_of_the_page_are_made(page, size):
    refusal_of(thumbnail(page, 0, params={"size": size}), 400)


def test_another_index_is_one_line(page):
    assert "choose one of tiny" in refusal_of(page.client.get("/api/thumbnail/other/0"), 404)


def test_an_image_that_was_removed_is_one_line(page):
    page.index.path(3).unlink()
    assert gone(page, 3) == "image 3 (red/3.png) is gone, or has changed since it was indexed"


def test_an_image_that_changed_is_refused_as_the_index_says(page, monkeypatch):
    def changed(place):
        raise UserError("image changed, in /home/someone/photos")

    monkeypatch.setattr(page.index, "path", changed)
    assert "/home" not in refusal_of(thumbnail(page, 3), 404)


def test_a_folder_of_images_that_vanished_is_one_line(page):
    os.rename(page.index.facts.images, page.index.facts.images + "_elsewhere")
    refusal_of(thumbnail(page, 0), 404)
    assert page.search(text="red")["results"]
    refusal_of(page.client.post("/api/attention", json={"index": "tiny", "text": "red", "image": 0}), 404)


def test_a_link_out_of_the_folder_is_not_followed(page, tmp_path):
    path = page.index.path(3)
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    assert "out of the folder" in gone(page, 3)


def test_a_folder_that_became_a_link_out_of_the_folder_is_not_followed(page, tmp_path):
    folder = page.index.path(3).parent
    os.rename(folder, tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    assert "out of the folder" in gone(page, 3)


def test_links_inside_the_folder_are_followed_for_the_folder_itself_may_be_one(page, tmp_path):
    path = page.index.path(3)
    path.unlink()
    path.symlink_to(page.index.path(4))
    os.rename(page.index.facts.images, tmp_path / "moved")
    os.symlink(tmp_path / "moved", page.index.facts.images)
    path = tmp_path / "moved" / "red" / "3.png"
    path.unlink()
    path.symlink_to("../green/4.png")
    assert thumbnail(page, 3).content == thumbnail(page, 4).content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_an_image_holds_nothing_up(page):
    path = page.index.path(3)
    path.unlink()
    os.mkfifo(path)
    assert "no ordinary file" in gone(page, 3)


def test_a_folder_and_a_link_to_itself_in_place_of_an_image_are_one_line(page):
    path = page.index.path(3)
    path.unlink()
    path.mkdir()
    gone(page, 3)
    path.rmdir()
    path.symlink_to(path.name)
    gone(page, 3)


def test_what_is_no_image_any_more_is_one_line(page):
    page.index.path(3).write_text("root:x:0:0")
    assert "does not decode as an image" in gone(page, 3)


def test_a_file_that_has_become_too_large_is_not_read(page, monkeypatch):
    monkeypatch.setattr(thumbnails, "MAXIMUM_BYTES", 10_000)
    page.index.path(3).write_bytes(bytes(10_001))
    assert "no ordinary file" in gone(page, 3)


def test_no_file_stays_open(page):
    descriptors = "/proc/self/fd"
    if not os.path.isdir(descriptors):
        pytest.skip("needs /proc")
    page.index.path(3).unlink()
    page.index.path(3).mkdir()
    page.index.path(4).write_text("none")
    before = len(os.listdir(descriptors))
    for place in (0, 3, 4, 5):
        thumbnail(page, place)
    assert len(os.listdir(descriptors)) <= before + 1
