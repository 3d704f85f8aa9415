"""Texts of an index: captions with the labels they tell, and averages with their kinds."""

from types import SimpleNamespace

from meru.index import annotations
from meru.index.annotations import Annotations, Average, averages


def test_averages_are_of_classes_of_families_of_several_and_of_all():
    known = Annotations(
        label_names=("my label",),  # of the images, the user's own
        text_classes=("Cat", "Red Dog", "Blue Dog"),
        class_kind="class",
        texts={"a tail": None, "a cat": 0, "a red dog": 1, "a blue dog": 2, "a dark dog": 2},
        families=("Cat", "Dog", "Dog"),
    )
    assert averages(known) == [
        Average("Cat", "class", [1]),
        Average("Red Dog", "class", [2]),
        Average("Blue Dog", "class", [3, 4]),
        Average("Dog (2 classes)", "family", [2, 3, 4]),
        Average("all captions", "all", [1, 2, 3, 4]),
    ]
    assert averages(Annotations(texts={"a tail": None})) == []


def test_a_caption_of_two_classes_tells_no_class(monkeypatch):
    captions = (("a dog", 0), ("a red dog", 0), ("a dog", 1), ("a dog", 1))
    records = [SimpleNamespace(path=f"{n}.png", captions=[text], class_index=c) for n, (text, c) in enumerate(captions)]
    data = SimpleNamespace(train=records, validation=[], test=[], class_kind="class", class_names=("x", "y"))
    monkeypatch.setattr(annotations, "load_data", lambda config: data)
    known = annotations._of_pairs(SimpleNamespace(data={}))
    assert (known.texts["a dog"], known.texts["a red dog"]) == (None, 0)
