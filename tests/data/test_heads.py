"""Heads that are hidden: where they are, what is left of them, and what cannot be hidden."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from meru.data.heads import HiddenHeads, end_of, head_of_points, hidden, hide_heads, of_head
from meru.data.images import read_image
from meru.data.records import ImageRecord, ImageTextData
from meru.data.synthetic.pedestrians.load import load_pedestrians
from meru.errors import UserError

IMAGE = torch.randint(0, 256, (3, 60, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BOX = (5.0, 3.0, 12.0, 12.0)
INSIDE = (slice(None), slice(3, 15), slice(5, 17))


@pytest.fixture
def record(tmp_path) -> ImageRecord:
    path = tmp_path / "imgs" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(IMAGE.permute(1, 2, 0).numpy()).save(path)
    return ImageRecord(path, 0, ("a person",))


def section(folder: Path, **changes):
    return {"root": str(folder), "cache": str(folder / "cache"), "on_error": "raise", "heads": None, **changes}


def test_only_the_box_changes_and_nothing_of_it_can_be_restored():
    for how in ("blur", "cover"):
        found = hidden(IMAGE, BOX, how)
        changed = (found != IMAGE).any(dim=0)
        assert changed[3:15, 5:17].float().mean() > 0.9
        changed[3:15, 5:17] = False
        assert not changed.any()
    assert (hidden(IMAGE, BOX, "cover")[INSIDE] == 128).all()
    other = IMAGE.clone()
    other[INSIDE] = other[INSIDE].reshape(3, 3, 4, 3, 4).flip(2, 4).reshape(3, 12, 12)  # the same nine means
    assert torch.equal(hidden(IMAGE, BOX, "blur"), hidden(other, BOX, "blur"))


def test_a_box_elsewhere_is_as_large_and_off_the_head():
    found = hidden(IMAGE, BOX, "elsewhere")
    grey = (found == 128).all(dim=0)
    assert grey[15:].sum() >= 144 and torch.equal(found[:, :15], IMAGE[:, :15])


def test_a_box_that_reaches_beyond_the_image_is_cut():
    assert (hidden(IMAGE, (-5.0, -5.0, 10.0, 10.0), "cover")[:, :5, :5] == 128).all()
    assert torch.equal(hidden(IMAGE, (100.0, 0.0, 5.0, 5.0), "blur"), IMAGE)


def test_key_points_of_heads_are_known_by_their_words():
    assert all(map(of_head, ("left eye", "Right_Ear", "nose", "forehead", "beak")))
    assert not any(map(of_head, ("left leg", "breast", "heart", "forearm")))
    bird = ImageRecord(Path("a"), 0, ("a",), parts={"beak": (40.0, 20.0), "nape": (60.0, 30.0), "tail": (9.0, 90.0)})
    assert head_of_points(bird, height=100, width=100) == (30, 5, 40, 40)
    one = ImageRecord(Path("a"), 0, ("a",), box=(0, 0, 60, 30), parts={"beak": (40.0, 20.0)})
    assert head_of_points(one, height=100, width=100) == (35, 15, 10, 10)  # a sixth of the box's larger side
    assert head_of_points(ImageRecord(Path("a"), 0, ("a",)), height=9, width=9) is None


def test_a_list_comes_first_and_files_are_written_once(record, tmp_path):
    (tmp_path / "heads.csv").write_text("image,x,y,width,height\na/1.png,5,3,12,12\n")
    heads = HiddenHeads(section(tmp_path), persons=True)
    (found,) = heads.records([record], "cover")
    assert found.path != record.path and found.captions == record.captions
    assert torch.equal(read_image(found.path), hidden(IMAGE, BOX, "cover"))
    assert torch.equal(read_image(record.path), IMAGE)
    assert found.path.parts[-3:] == ("imgs", "a", "1.png")  # lists of captions still find it
    written = found.path.stat().st_mtime_ns
    assert heads.records([record], "cover")[0].path.stat().st_mtime_ns == written
    assert heads.records([record], "blur")[0].path != found.path


def test_a_copy_is_never_the_original():
    assert end_of(Path("/a/b.jpg")) == ["a", "b.jpg"] and end_of(Path("../../c/d.jpg")) == ["c", "d.jpg"]
    assert end_of(Path("/1/2/3/4/5.jpg")) == ["2", "3", "4", "5.jpg"]


def test_of_persons_the_upper_sixth_is_hidden_and_others_are_refused(record, tmp_path, caplog):
    with caplog.at_level("INFO"):
        (found,) = HiddenHeads(section(tmp_path), persons=True).records([record], "cover")
    assert "the place of 1 of 1 heads is not known: the upper sixth is hidden" in caplog.text
    pixels = read_image(found.path)
    assert (pixels[:, :10] == 128).all() and torch.equal(pixels[:, 10:], IMAGE[:, 10:])
    with pytest.raises(UserError, match="the place of the head is not known: give data.heads="):
        HiddenHeads(section(tmp_path), persons=False).records([record], "cover")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,x,y\n", "has no column width; it needs image,x,y,width,height"),
        ("image,x,y,width,height\na.png,1,2,wide,4\n", "line 2: x, y, width and height must be numbers"),
        ("image,x,y,width,height\na.png,1,2,0,4\n", "line 2: a head needs an image, and a width and height above 0"),
        ("image,x,y,width,height\na.png,1,2,nan,4\n", "line 2: a head needs an image"),
        ("image,x,y,width,height\na.png,1,2,3,4\na.png,1,2,3,4\n", "line 3: a.png is listed twice"),
    ],
)
def test_a_list_that_is_no_list_of_heads_is_one_line(text, said, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        HiddenHeads(section(tmp_path, heads=str(path)), persons=True)
    with pytest.raises(UserError, match="data.heads=.*missing.csv does not exist: give a CSV"):
        HiddenHeads(section(tmp_path, heads=str(tmp_path / "missing.csv")), persons=True)


def test_a_name_that_two_images_have_is_refused(record, tmp_path):
    second = ImageRecord(tmp_path / "imgs" / "b" / "1.png", 1, ("another person",))
    second.path.parent.mkdir()
    second.path.write_bytes(record.path.read_bytes())
    (tmp_path / "heads.csv").write_text("image,x,y,width,height\n1.png,5,3,12,12\n")
    with pytest.raises(UserError, match="1.png may be .*: give more of the path"):
        HiddenHeads(section(tmp_path), persons=True).records([record, second], "blur")


def test_an_image_that_is_skipped_stays_as_it_is(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    broken = ImageRecord(path, 0, ("a person",))
    heads = HiddenHeads(section(tmp_path, on_error="skip"), persons=True)
    assert heads.records([broken], "blur") == (broken,)
    with pytest.raises(UserError, match="broken.png"):
        HiddenHeads(section(tmp_path), persons=True).records([broken], "blur")


def test_drawn_persons_have_heads_where_the_list_says(tmp_path):
    root = tmp_path / "pedestrians"
    data = load_pedestrians(root=root, identities=6, images_per_identity=1)
    assert len((root / "heads.csv").read_text().splitlines()) == 7
    changed = hide_heads(data, section(tmp_path, root=str(root), hidden_heads="cover"))
    every = ([*each.train, *each.validation, *each.test] for each in (data, changed))
    for before, after in zip(*every, strict=True):
        differing = (read_image(before.path) != read_image(after.path)).any(dim=0)
        rows = differing.any(dim=1).nonzero().flatten()
        assert 10 <= len(rows) <= 24 and differing.float().mean() < 0.08
    assert isinstance(changed, ImageTextData) and changed.class_names == data.class_names
