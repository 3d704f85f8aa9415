"""Kinds of values of configuration keys: which values they allow, and their descriptions for the user."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


class Kind:
    """A set of allowed values, in YAML's types: None, bool, int, float, str, list, dict."""

    allowed: str
    """The allowed values, as the end of a sentence that begins with "give"."""

    is_path = False
    """Whether a text among them is the path of a file or folder."""

    def takes(self, value: object) -> bool:
        """Whether the value is allowed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Kind):
    """Whole numbers from `least` to `most` in steps of `step`. `4.0` and `true` are not whole numbers."""

    least: int
    most: int
    step: int = 1

    @property
    def allowed(self) -> str:
        what = "a whole number" if self.step == 1 else f"a multiple of {self.step}"
        return f"{what} from {self.least} to {self.most}"

    def takes(self, value: object) -> bool:
        return type(value) is int and self.least <= value <= self.most and (value - self.least) % self.step == 0


@dataclass(frozen=True)
class Number(Kind):
    """Finite numbers from `least` to `most`, including integers, but not `true`.

    Args:
        least, most: Bounds, both included by default.
        above, below: Whether to exclude `least` or `most`.
    """

    least: float
    most: float
    above: bool = False
    below: bool = False

    @property
    def allowed(self) -> str:
        least, most = _plainly(self.least), _plainly(self.most)
        if self.least == self.most:
            return least
        if not (self.above or self.below):
            return f"a number from {least} to {most}"
        low = f"above {least}" if self.above else f"of at least {least}"
        return f"a number {low} and {'below' if self.below else 'at most'} {most}"

    def takes(self, value: object) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        high_enough = value > self.least if self.above else value >= self.least
        return high_enough and (value < self.most if self.below else value <= self.most)


def _plainly(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


@dataclass(frozen=True)
class Choice(Kind):
    """One of several words."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return self.words[0] if len(self.words) == 1 else f"one of {', '.join(self.words)}"

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and value in self.words


class Flag(Kind):
    """`true` or `false`."""

    allowed = "true or false"

    def takes(self, value: object) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class Text(Kind):
    """Any text that is not empty and has no NUL character or line break."""

    what: str = "a text"

    @property
    def allowed(self) -> str:
        return self.what

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and bool(value.strip()) and not set(value) & set("\0\n\r")


class FilePath(Text):
    """The path of a file or folder. `~` is the home folder; relative paths start at the working directory."""

    is_path = True


class Template(Kind):
    """A sentence with `{}` in place of the class name."""

    allowed = "a sentence with {} in place of the class name"

    def takes(self, value: object) -> bool:
        return isinstance(value, str) and "{}" in value


class Architecture(Kind):
    """Layers, width and heads of a text tower as `L12_W512_A8`; without `A…`, a head is 64 wide."""

    allowed = (
        "layers, width and heads as L12_W512_A8, the width a multiple of the heads (of 64 without A8), at most "
        "L200_W16384"
    )

    def takes(self, value: object) -> bool:
        return text_sizes(value) is not None


def text_sizes(architecture: object) -> tuple[int, int, int] | None:
    """Layers, width and heads of a text tower by its short name, which has two spellings; None if it is none."""
    form = re.fullmatch(r"L(\d{1,3})_W(\d{1,5})(?:_A(\d{1,4}))?", str(architecture))
    if not form:
        return None
    layers, width = int(form[1]), int(form[2])
    heads = int(form[3]) if form[3] else width // 64 if width % 64 == 0 else 0
    valid = 1 <= layers <= 200 and 1 <= width <= 16384 and heads > 0 and width % heads == 0
    return (layers, width, heads) if valid else None


@dataclass(frozen=True)
class ListOf(Kind):
    """A list of values of one kind.

    Args:
        item: Kind of the items.
        example: Example, as on the command line.
        least, most: Bounds of the number of items.
        ascending: Whether the items must be in ascending order.
        different: Whether all items must be different.
    """

    item: Kind
    example: str
    least: int = 0
    most: int = 100_000
    ascending: bool = False
    different: bool = False

    @property
    def allowed(self) -> str:
        if self.least == self.most:
            count = f"{self.least} of them"
        else:
            count = f"at least {self.least}" if self.least else "none or more"
        order = ", the smaller one first" if self.ascending else ""
        unlike = ", none twice" if self.different else ""
        return f"a list like {self.example}: {count}, each {self.item.allowed}{order}{unlike}"

    def takes(self, value: object) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if not self.least <= len(value) <= self.most or not all(self.item.takes(each) for each in value):
            return False
        if self.ascending and list(value) != sorted(value):
            return False
        return not self.different or len(set(value)) == len(value)


@dataclass(frozen=True)
class Either(Kind):
    """A value of any of several kinds."""

    kinds: tuple[Kind, ...]

    @property
    def is_path(self) -> bool:
        return any(kind.is_path for kind in self.kinds)

    @property
    def allowed(self) -> str:
        return ", or ".join(kind.allowed for kind in self.kinds)

    def takes(self, value: object) -> bool:
        return any(kind.takes(value) for kind in self.kinds)


class Plain(Kind):
    """Any YAML value, passed on to a library; its numbers must be finite."""

    allowed = "a number, a text, true, false, or a list or section of such"

    def takes(self, value: object) -> bool:
        if isinstance(value, dict):
            return all(self.takes(each) for each in value.values())
        if isinstance(value, (list, tuple)):
            return all(self.takes(each) for each in value)
        return not isinstance(value, float) or math.isfinite(value)


class Section(Kind):
    """A section, whose keys are declared one by one."""

    allowed = "a section of keys"

    def takes(self, value: object) -> bool:
        return isinstance(value, dict)
