"""Fonts for texts in any script: those that a figure needs beside its own, and substitutes for missing characters."""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import matplotlib
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font

log = logging.getLogger("meru")

# In this order; matplotlib takes each character from the first font that has it. Colour fonts are absent, because
# matplotlib draws outlines only.
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC", "Hiragino Sans GB", "Arial Unicode MS"),
    *("Noto Emoji", "Segoe UI Emoji", "Segoe UI Symbol", "Symbola", "Noto Sans Symbols2", "Noto Sans Symbols"),
)
# Characters that change the look of their neighbours or join them, and have no glyph of their own.
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f", "\u20e3", *map(chr, range(0x1F3FB, 0x1F400))}
_said: set[str] = set()


def families_for(texts: Iterable[str]) -> list[str]:
    """Font families for these texts: matplotlib's own, and those of `FALLBACKS` that have characters it lacks."""
    families = list(matplotlib.rcParams["font.family"])
    lacking = {ord(character) for text in texts for character in text} - _characters(_own_font())
    for family, path in (_installed() if lacking else {}).items():
        if found := lacking & _characters(path):
            families.append(family)
            lacking -= found
    return families


def drawable(text: str) -> str:
    """The text with a substitute for every character that no font has: its name in brackets, `[parrot]`, or `?`.

    The log says so once for each character.
    """
    if all(character.isspace() or ord(character) in _characters(_own_font()) for character in text):
        return text
    known = _characters(_own_font()).union(*map(_characters, _installed().values()))
    shown, missing = [], []
    for character in text:
        if character in _JOINERS:
            continue
        if ord(character) in known or character.isspace():
            shown.append(character)
        else:
            shown.append(_substitute(character))
            missing.append(character)
    if new := [character for character in dict.fromkeys(missing) if character not in _said]:
        _said.update(new)
        log.warning(
            "no installed font has %s: the plot shows substitutes; install one, such as Noto Sans CJK for Chinese",
            " ".join(new),
        )
    return "".join(shown)


def _substitute(character: str) -> str:
    name = unicodedata.name(character, "").lower()
    # Names such as "cjk unified ideograph-9e1f" say no more than a question mark.
    return f"[{name}]" if unicodedata.category(character) == "So" and name else "?"


@functools.cache
def _own_font() -> Path:
    return Path(findfont(FontProperties(family=matplotlib.rcParams["font.family"])))


@functools.cache
def _installed() -> dict[str, Path]:
    """The family of `FALLBACKS` → its regular file."""
    # Matplotlib keeps a list of fonts in a file, which lacks those installed since it was written.
    listed = {Path(font.fname) for font in fontManager.ttflist}
    for path in findSystemFonts():
        if Path(path) not in listed:
            with suppress(Exception):  # a file that no library can read is no font
                fontManager.addfont(path)
    names = {font.name for font in fontManager.ttflist}
    return {name: Path(findfont(FontProperties(family=name))) for name in FALLBACKS if name in names}


@functools.cache
def _characters(path: Path) -> frozenset[int]:
    return frozenset(get_font(str(path)).get_charmap())
