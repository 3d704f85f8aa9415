"""Declares the keys of one's own tables and folders, for `data=pairs`, `data=person_list` and `data=shards`."""

from __future__ import annotations

from dataclasses import replace

from meru.configuration.key import Key, fixed
from meru.configuration.kinds import Choice, Either, FilePath, ListOf, Number, Section, Template, Text, Whole

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
_URLS = Text("paths or addresses of tar files")
_SHARDS = {
    "urls": Key(_URLS),
    "validation_urls": Key(_URLS, null=True),
    "test_urls": Key(_URLS, null=True),
    "image_field": fixed(Text("endings joined by ;")),
    "caption_field": fixed(Text("an ending, or json.<key>")),
    "boxes_field": fixed(Text("json.<key>, or <beginning>*"), null=True),
    "sizes": Key(FilePath("the path of a file"), null=True),
    "samples_per_epoch": fixed(Whole(1, 10**11), "samples", null=True),
    "streams": fixed(Whole(1, 512), "streams", null=True),
    "shuffle": fixed(Whole(0, 10**7), "samples"),
}
_ALL = _KEYS | _SHARDS
# In the section `data`; the loaders take the same ones, and some that other data sets have too.
OWN_DATA = {
    **_ALL,
    **{f"load.{name}": replace(key, meaning=f"data.{name}") for name, key in _ALL.items()},
    "load.cache": Key(FilePath("the path of a folder"), meaning="data.cache", null=True),
    "load.on_error": Key(Choice(("raise", "skip")), meaning="data.on_error"),
    "load.prompts": Key(
        ListOf(Template(), '["a photo of a {}."]', least=1, most=10_000), meaning="data.prompts", null=True
    ),
}
