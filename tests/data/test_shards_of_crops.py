"""Shards whose samples hold an image, `child`, and crops of it with their own texts, `parent000` …: HyCoCLIP's."""

import io

import pytest
import torch
from PIL import Image
from shard_files import write_tar
from torch import nn

from meru.data.pairs import TrainingPairs
from meru.data.parts import CropParts, PartWords
from meru.data.records import Crop
from meru.data.shards.load import load_shards
from meru.data.shards.loading import ShardSource, shard_loader
from meru.data.shards.order import ShardOrder
from meru.data.shards.places import counted
from meru.data.shards.records import crops_of, regions_of
from meru.data.shards.tars import Fields, RawSample, samples_in
from meru.errors import UserError

FIELDS = Fields.of(image="child.jpg", captions="child.txt", regions="parent*")
ONE_CROP = {"parent000.jpg": "", "parent000.txt": ""}
CROPS = (1, 3, 2, 1)  # of each sample


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def jpeg(shade, size=(16, 16)):
    content = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(content, "JPEG")
    return content.getvalue()


def sample(number, crops):
    """A sample whose caption is its number; crop k is called number·10 + k + 1, and is as bright."""
    files = {"child.jpg": jpeg(200 + number), "child.txt": number, "numparents.txt": crops}
    for crop in range(crops):
        name = number * 10 + crop + 1
        files |= {f"parent{crop:03d}.jpg": jpeg(name, (12, 9)), f"parent{crop:03d}.txt": f" {name}\n"}
    return files


@pytest.fixture
def shard(tmp_path):
    """A tar file of four samples."""
    samples = {f"{number:09d}": sample(number, crops) for number, crops in enumerate(CROPS)}
    return write_tar(tmp_path / "00000.tar", samples)


class Brightness(nn.Module):
    """An image → its mean."""

    def forward(self, image):
        return image.float().mean()[None]


def batches(path, fields=FIELDS, *, parts=True, epochs=1, on_error="raise", **pairs):
    pairs = TrainingPairs(
        (),
        transform=Brightness(),
        tokenize=lambda text: torch.tensor([int(text) if text else -1]),
        seed=3,
        on_error=on_error,
        parts=CropParts(PartWords("", {})) if parts else None,
        **pairs,
    )
    shards = counted([str(path)], fields, sizes=None, on_error=on_error, key="data.urls")
    sizes = [each.samples for each in shards]
    order = ShardOrder(sizes=sizes, batch_size=1, seed=3, streams=1, buffer=3, samples_per_epoch=sum(sizes))
    return list(shard_loader(ShardSource(shards, fields), order, pairs, total_steps=sum(sizes) * epochs, workers=0))


def test_a_crop_is_drawn_with_its_own_text(shard):
    drawn = set()
    for batch in batches(shard, epochs=12):
        number, name = int(batch["tokens"]), int(batch["part_tokens"])
        assert abs(float(batch["image"]) - 200 - number) <= 1 and abs(float(batch["part_image"]) - name) <= 1
        assert number == name // 10 == int(batch["image_index"])
        assert batch["has_part"] and batch["has_part_text"]
        drawn.add(name)
    assert drawn == {number * 10 + crop + 1 for number, crops in enumerate(CROPS) for crop in range(crops)}


def test_crops_are_neither_kept_nor_required_for_models_without_parts(shard, monkeypatch):
    from meru.data.shards import loading

    held = []

    def watched(url, fields):
        for raw in samples_in(url, fields):
            held.append(raw)
            yield raw

    monkeypatch.setattr(loading, "samples_in", watched)
    assert all("part_image" not in batch for batch in batches(shard, parts=False))
    assert all(bool(content) == name.startswith("child") for raw in held for name, content in raw.files.items())


def test_training_examples_have_crops_and_other_splits_only_images(shard, tmp_path):
    keys = {"image_field": "child.jpg", "caption_field": "child.txt", "boxes_field": "parent*"}
    for _ in range(2):  # extracted, then found
        data = load_shards(root=tmp_path, urls="00000.tar", validation_urls="00000.tar", **keys)
        assert [len(record.regions) for record in data.train] == list(CROPS)
        last = data.train[1].regions[2]
        assert (last.phrase, last.name, last.image.read_bytes()) == ("13", "parent002.jpg", jpeg(13, (12, 9)))
        CropParts(PartWords("", {})).check(data.train, "data.root")
        assert [(record.captions, record.regions) for record in data.validation] == [((str(n),), ()) for n in range(4)]
        assert len(list(data.validation[0].path.parent.iterdir())) == 4 + 1
    pairs = TrainingPairs(
        data.train, transform=Brightness(), tokenize=lambda text: torch.tensor([int(text)]), seed=0,
        parts=CropParts(PartWords("", {})),
    )  # fmt: skip
    assert abs(float(pairs[0, 3]["part_image"]) - 31) <= 1


def test_other_settings_are_advised_by_what_a_sample_has(shard, tmp_path):
    with pytest.raises(UserError, match=r"has child.jpg, child.txt, numparents.txt, parent000.jpg, .*set data.image"):
        load_shards(root=tmp_path, urls="00000.tar")
    with pytest.raises(UserError, match=r"has no crop\*, it has child.jpg, .*set data.boxes_field"):
        load_shards(
            root=tmp_path, urls="00000.tar", image_field="child.jpg", caption_field="child.txt", boxes_field="crop*"
        )
    with pytest.raises(UserError, match=r"^data.boxes_field=parent\*.jpg: give what the names .*: parent\*$"):
        Fields.of(image="child.jpg", captions="child.txt", regions="parent*.jpg")


def raw(files):
    return RawSample("shard a.tar, sample 7", {name: str(content).encode() for name, content in files.items()})


def test_crops_may_be_of_another_format_than_the_image_and_their_texts_must_be_utf8():
    files = {"child.jpg": "", "parent000.png": "a", "parent000.txt": "b"}
    assert crops_of(raw(files), FIELDS) == (Crop(b"a", "b", "parent000.png"),)
    sample = RawSample("shard a.tar, sample 7", {"parent000.jpg": b"", "parent000.txt": "für".encode("latin-1")})
    with pytest.raises(UserError, match=r"parent000.txt cannot be read \(.*utf-8.*\): mend .*data.on_error=skip$"):
        crops_of(sample, FIELDS)


def test_crops_may_have_no_words_or_be_none():
    files = {"child.jpg": "", "numparents.txt": "2\n", "parent001.jpg": "b", "parent001.txt": ""}
    files |= {"parent000.jpg": "a", "parent000.txt": " a  c ", "parents.txt": "not a crop", "parent000.json": "neither"}
    assert crops_of(raw(files), FIELDS) == (Crop(b"a", "a c", "parent000.jpg"), Crop(b"b", "", "parent001.jpg"))
    assert crops_of(raw({"child.jpg": "", "numparents.txt": 0}), FIELDS) == ()
    without_number = {"parent0.jpg": "a", "parent0.txt": "b"}
    assert crops_of(raw(without_number), FIELDS) == (Crop(b"a", "b", "parent0.jpg"),)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"parent000.jpg": ""}, r"parent000 lacks its text \(.txt\), it has only parent000.jpg"),
        ({"parent000.txt": ""}, "parent000 lacks its image, it has only parent000.txt"),
        ({**ONE_CROP, "numparents.txt": 3}, "numparents.txt says 3, but there are 1 crops"),
        ({**ONE_CROP, "numparents.txt": " "}, "numparents.txt says nothing"),
        ({"child.jpg": ""}, r"has no parent\*, it has child.jpg: set data.boxes_field.*data.on_error=skip"),
    ],
)
def test_partial_samples_are_named(files, message):
    with pytest.raises(UserError, match=f"^shard a.tar, sample 7:? ?.*{message}") as error:
        crops_of(raw(files), FIELDS)
    assert "\n" not in str(error.value)


def test_a_damaged_crop_is_named_or_its_sample_replaced(tmp_path):
    samples = {f"{number}": sample(number, 1) for number in range(6)}
    samples["2"]["parent000.jpg"] = b"no image"
    path = write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(UserError, match=r"a.tar, sample 2, parent000.jpg does not decode") as error:
        batches(path)
    assert "\n" not in str(error.value)
    seen = batches(path, on_error="skip")
    assert sum(int(batch["skipped"]) for batch in seen) == 1
    assert all(int(batch["image_index"]) != 2 for batch in seen)


def test_boxes_of_an_image_that_is_decoded_smaller(tmp_path):
    """A box is cut where it is in the file, whatever size the image is decoded at."""
    content = io.BytesIO()
    image = Image.new("RGB", (256, 128), (10, 10, 10))
    image.paste((240, 240, 240), (192, 64, 256, 128))
    image.save(content, "JPEG", quality=95)
    boxes = '[{"box": [200, 72, 48, 48], "phrase": "9"}]'
    path = write_tar(tmp_path / "a.tar", {"0": {"jpg": content.getvalue(), "txt": 1, "json": f'{{"boxes": {boxes}}}'}})
    fields = Fields.of(image="jpg", captions="txt", regions="json.boxes")
    (batch,) = batches(path, fields, maximum_pixels=10_000)
    assert float(batch["part_image"]) > 230 and int(batch["part_tokens"]) == 9


def test_json_is_parsed_once_a_sample(monkeypatch):
    import json

    facts = {"caption": "a bird", "noun_chunks": [[2, 6, 0.0, 0.0, 0.5, 0.5, 0.9]]}
    read = RawSample("place", {"json": json.dumps(facts).encode()})
    fields, calls, loads = Fields.of(image="jpg", captions="json.caption", regions="json.noun_chunks"), [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: calls.append(text) or loads(text))
    assert fields.captions_of(read) == ("a bird",)
    assert [region.phrase for region in regions_of(read, fields, 4, 4)] == ["bird"]
    assert len(calls) == 1
