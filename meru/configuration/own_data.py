"""Declares the keys of one's own tables and folders, for `data=pairs` and `data=person_list`."""

from __future__ import annotations

from dataclasses import replace

from meru.configuration.key import Key, fixed
from meru.configuration.kinds import Choice, Either, FilePath, ListOf, Number, Section, Text

COLUMN = Text("the name of a column")

_KEYS = {
    "path": Key(
        FilePath("the path of a file or folder"),
        meaning="a table of images with captions, a folder of images, or Karpathy's dataset_*.json",
    ),
    "images": Key(
        FilePath("the path of a folder"),
        meaning="the folder that listed paths start from; null: found beside the list",
        null=True,
    ),
    "kind": fixed(Choice(("table", "karpathy", "text_files", "class_folders", "file_names")), null=True),
    "columns": fixed(Section(), meaning="the names of the columns of a table"),
    "columns.image": fixed(COLUMN, null=True),
    "columns.caption": fixed(Either((COLUMN, ListOf(COLUMN, "[caption_1,caption_2]", least=1))), null=True),
    "columns.class": fixed(COLUMN, null=True),
    "columns.identity": fixed(COLUMN, null=True),
    "columns.split": fixed(COLUMN, null=True),
    "columns.boxes": fixed(COLUMN, null=True),
    "box_format": fixed(Choice(("xywh", "xyxy"))),
    "encoding": fixed(Text("the name of an encoding"), null=True),
    "test_fraction": fixed(Number(0, 1, below=True), "share"),
}
# In the section `data`; the loaders take the same ones.
OWN_DATA = {**_KEYS, **{f"load.{name}": replace(key, meaning=f"data.{name}") for name, key in _KEYS.items()}}
