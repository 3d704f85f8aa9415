"""Kinds of values that several keys share."""

from __future__ import annotations

from meru.configuration.kinds import Either, FilePath, ListOf, Number, Template, Text, Whole

FOLDER, FILE = FilePath("the path of a folder"), FilePath("the path of a file")
PLACE = FilePath("the path of a file or folder")
SHARE = Number(0, 1)
SEED = Whole(0, 2**32 - 1)
POSITIVE = Number(0, 1e6, above=True)
AT_LEAST_0 = Number(0, 1e6)
TARGET = Text("the dotted path of a class or function")
TEMPLATES = ListOf(Template(), '["a photo of a {}."]', least=1, most=10_000)
RGB = ListOf(Number(-10, 10), "[0.5,0.5,0.5]", least=3, most=3)
RGB_SPREAD = ListOf(Number(0, 10, above=True), "[0.5,0.5,0.5]", least=3, most=3)
TEXTS = ListOf(Text(), '["one","2"]')
NAMES = Either((TEXTS, FILE))
PROPER_SHARE = Number(0, 1, above=True, below=True)
TEMPERATURE = Number(0, 1000, above=True)
