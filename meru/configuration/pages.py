"""Writes the pages that list all keys: docs/keys.md and docs/keys.zh-CN.md.

Kinds and ranges come from declarations.py, defaults from configs/. Explanations come from declarations.py or the
comment beside the key in configs/, and in Chinese from chinese.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from meru.configuration import chinese, chinese_words
from meru.configuration.check import shown
from meru.configuration.declarations import EVALUATE, TRAIN
from meru.configuration.facts import validation_figures
from meru.configuration.key import Key
from meru.configuration.kinds import Kind, Section
from meru.files import CONFIGS

HEAD = """# Keys of the configuration

Written by `python scripts/document_keys.py` from meru/configuration and configs/; do not edit it.
In Chinese: [keys.zh-CN.md](keys.zh-CN.md).

On the command line: `key=value`; `+key=value` for a key that the chosen files lack (not needed for those of towers,
logger and optimizer); `~key` removes one. Every value is checked before a run begins. Write whole numbers without a
decimal point: `4.0` is not one. Numbers must be finite. Relative paths start at the working directory, and `~` is the
home folder. Paths and texts are used as typed, including Chinese, spaces (quoted for the shell), brackets and commas.
Lists: `'data.crop_scale=[0.5,1.0]'`. With `--multirun`, commas separate values, so a value with a comma needs its own
quotes: `'folder="a,b"'`.

*Default*: the value without a recipe; recipes (`experiment=…`) set their own values, and `--cfg job` shows the
resulting configuration. If files of configs/ differ, the value depends on the chosen file, and a few values are shown.
*Resume*: "fixed" if a resumed run refuses another value, "acts" if another value applies from then on.

A new key in configs/ needs a line in meru/configuration/declarations.py and one in chinese.py.
"""
HEADINGS = {
    "": "Keys without a section",
    "trainer": "trainer: length and course of training",
    "evaluation": "evaluation: figures",
    "data": "data: images, captions, batches",
    "encoder": "encoder: the two towers",
    "model": "model",
    "loss": "loss: weights and settings of the terms",
    "parts": "parts: crops in addition to images and captions, in model=hycoclip and model=uncha",
    "discovery": "discovery: category discovery, in model=simgcd, hypgcd and hypcd",
    "optim": "optim: optimizer and learning rate",
    "logger": "logger",
}
WORDS = {
    **{word: word for word in ("key", "default", "allowed", "resume", "meaning", "fixed", "acts")},
    "figures": "Figures for trainer.monitor",
    "evaluate": "scripts/evaluate.py",
    "class": "Data sets of classes (`pointing/…` where captions name parts):",
    "identity": "Data sets of persons:",
}


@dataclass(frozen=True)
class Language:
    """The texts of a page in one language.

    Attributes:
        head: The text above the tables.
        headings: Section of the configuration → heading.
        words: Headings and entries of columns, and the texts above the lists of figures.
        allowed: Kind, unit → description of the allowed values.
        or_null: Addition to that description if null is allowed.
        meaning: Key, command and English explanation → explanation.
    """

    head: str
    headings: Mapping[str, str]
    words: Mapping[str, str]
    allowed: Callable[[Kind, str], str]
    or_null: str
    meaning: Callable[[str, str, str], str]


def _allowed_in_english(kind: Kind, unit: str) -> str:
    return f"{kind.allowed} ({unit})" if unit else kind.allowed


def _allowed_in_chinese(kind: Kind, unit: str) -> str:
    return f"{chinese_words.allowed(kind)}（{chinese_words.UNITS[unit]}）" if unit else chinese_words.allowed(kind)


# By the name of the page in docs/.
PAGES = {
    "keys.md": Language(
        HEAD, HEADINGS, WORDS, _allowed_in_english, ", or null", lambda key, command, english: english
    ),
    "keys.zh-CN.md": Language(
        chinese_words.HEAD,
        chinese_words.HEADINGS,
        chinese_words.COLUMNS,
        _allowed_in_chinese,
        "，或 null",
        lambda key, command, english: chinese.meaning(key, command=command),
    ),
}


def page(name: str) -> str:
    """The complete page of that name in docs/."""
    language = PAGES[name]
    lines, found = [language.head], defaults_and_comments(CONFIGS)
    for section, heading in language.headings.items():
        keys = {key: known for key, known in TRAIN.items() if section_of(key) == section}
        lines += [f"## {heading}", "", *table(keys, found, language, command="train")]
    lines += [f"## {language.words['figures']}", ""]
    for kind in ("class", "identity"):
        names = ", ".join(f"`{name}`" for name in validation_figures(kind=kind))
        lines += [language.words[kind], "", names, ""]
    own = defaults_and_comments(CONFIGS / "evaluate.yaml")
    keys = {key: known for key, known in EVALUATE.items() if not key.startswith("data.")}
    lines += [f"## {language.words['evaluate']}", "", *table(keys, own, language, command="evaluate")]
    return "\n".join(lines).rstrip() + "\n"


def section_of(key: str) -> str:
    """Section of a key: `trainer` for `trainer.epochs`, "" for `seed`."""
    return key.partition(".")[0] if "." in key else ""


def table(
    keys: dict[str, Key], found: dict[str, tuple[list[str], str]], language: Language, *, command: str
) -> list[str]:
    """A table with a row per key: name, default, allowed values, behaviour on resumption (of training), meaning."""
    resumes, words = command == "train", language.words
    head = [words[name] for name in ("key", "default", "allowed", *["resume"] * resumes, "meaning")]
    lines = [row(head), "|---" * len(head) + "|"]
    for key, known in keys.items():
        if isinstance(known.kind, Section) and f"{key}.*" in keys:
            continue
        defaults, comment = found.get(key, ([], ""))
        default = ", ".join(f"`{value}`" for value in defaults[:4]) + (", …" if len(defaults) > 4 else "")
        allowed = language.allowed(known.kind, known.unit) + (language.or_null if known.null else "")
        resumed = [words["fixed" if known.fixed else "acts"]] if resumes else []
        meaning = language.meaning(key, command, known.meaning or comment)
        lines.append(row([f"`{key}`", default, allowed, *resumed, meaning]))
    return [*lines, ""]


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def defaults_and_comments(place: Path) -> dict[str, tuple[list[str], str]]:
    """Key → its different values in the files of configs/ except the recipes, and the first comment beside it."""
    groups = [place / group for group in ("data", "encoder", "model", "optim", "logger")]
    in_groups = [file for group in groups for file in sorted(group.glob("*.yaml"))]
    files = [place] if place.is_file() else [place / "train.yaml", *in_groups]
    found: dict[str, tuple[list[str], str]] = {}
    for file in files:
        text = file.read_text(encoding="utf-8")
        is_group = place.is_dir() and file.parent != place and "# @package _global_" not in text
        for key, value, comment in entries(text, f"{file.parent.name}." if is_group else ""):
            values, before = found.get(key, ([], ""))
            written = shown(value)
            found[key] = (values if written in values else [*values, written], before or comment)
    return found


def entries(text: str, prefix: str) -> Iterator[tuple[str, object, str]]:
    """Every key of a YAML file in block style, with its value unless it is a section, and the comment beside it."""
    whole = yaml.safe_load(text) or {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        form = re.fullmatch(r"( *)([\w.]+):(?: +(.*?))?(?: +# (.*)|#.*)?", line)
        if not form or line.lstrip().startswith("#"):
            continue
        indent = len(form[1])
        path = [*(each for each in path if each[0] < indent), (indent, form[2])]
        names = [name for _, name in path]
        value = whole
        for name in names:
            value = value[name]
        if names[0] in ("defaults", "hydra"):
            continue
        if isinstance(value, dict) and value:
            if form[3] and form[3].startswith("{"):
                for name, inner in value.items():
                    yield f"{prefix}{'.'.join([*names, name])}", inner, ""
            elif form[4]:
                yield f"{prefix}{'.'.join(names)}", "…", form[4]
            continue
        yield f"{prefix}{'.'.join(names)}", value, form[4] or ""
