"""Captions by templates: what each richness says, and of which images."""

from pathlib import Path

import pytest

from meru.data.caption_templates import (
    attribute_captions,
    image_names,
    sentence_captions,
    template_captions,
)
from meru.data.parts import PartWords
from meru.data.records import ImageRecord, ImageTextData
from meru.errors import UserError

COLOURS = {"primary": "brown", "bill": "orange", "upper tail": "white", "underparts": "grey"}
WORDS = PartWords("bird", {"beak": ["bill", "beak"], "tail": ["tail"], "belly": ["belly"]})


def record(path="/data/a/1.jpg", **rest):
    return ImageRecord(Path(path), 0, ("own one", "own two"), **rest)


def data_of(*records, **rest):
    return ImageTextData(("Arctic Tern",), records, (), (), **rest)


def test_attributes_name_the_colours_of_two_parts_at_a_time():
    assert attribute_captions("Arctic Tern", COLOURS, "bird") == [
        "an Arctic Tern, a brown bird",
        "an Arctic Tern with an orange bill and a white upper tail",
        "an Arctic Tern with grey underparts",
    ]
    assert attribute_captions("Tern", {}, "bird")[0] == "a Tern"


def test_sentences_are_of_visible_parts_only_as_far_as_places_are_known():
    start = "This bird is an Arctic Tern. It is mostly brown."
    everything = sentence_captions("Arctic Tern", record(colours=COLOURS), WORDS)
    assert everything == [f"{start} Its bill is orange. Its upper tail is white. Its underparts are grey."]
    seen = record(colours=COLOURS, parts={"beak": (1, 1), "left eye": (2, 2)})
    assert sentence_captions("Arctic Tern", seen, WORDS) == [f"{start} Its bill is orange. Its underparts are grey."]
    many = record(colours={f"part {number}": "red" for number in range(5)})
    assert [text.count("Its") for text in sentence_captions("Tern", many, WORDS)] == [4, 1]
    assert sentence_captions("Tern", record(), WORDS) == ["This bird is a Tern."]


def test_every_image_is_named_from_the_folder_in_common():
    assert image_names([Path("/data/a/1.jpg"), Path("/data/b/c/1.jpg")]) == ["a/1.jpg", "b/c/1.jpg"]
    found = template_captions(data_of(record(colours=COLOURS), record("/data/b/1.jpg")), WORDS)
    assert list(found) == ["names", "attributes", "sentences", "first"]
    assert all(list(captions) == ["a/1.jpg", "b/1.jpg"] for captions in found.values())
    assert found["first"]["a/1.jpg"] == ["own one"] and "a photo of an Arctic Tern" in found["names"]["b/1.jpg"]


def test_without_colours_there_are_names_and_own_captions_only():
    assert list(template_captions(data_of(record()), WORDS)) == ["names", "first"]


@pytest.mark.parametrize("rest", [{"class_kind": "identity"}, {"class_kind": "image"}, {"shards": object()}])
def test_data_without_names_of_classes_are_refused(rest):
    with pytest.raises(UserError, match="^templates need the names of classes, which .* do not have"):
        template_captions(data_of(record(), **rest), WORDS)
