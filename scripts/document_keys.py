"""Write docs/keys.md, the list of all keys: `python scripts/document_keys.py [--check]`.

Kinds and ranges are those of meru/configuration, defaults and meanings those of configs/.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from meru.command_line import one_line_errors
from meru.configuration import validation_figures
from meru.configuration.check import shown
from meru.configuration.declarations import EVALUATE, TRAIN, Key
from meru.configuration.kinds import Section
from meru.errors import UserError
from meru.files import PROJECT, write_text

PAGE = PROJECT / "docs" / "keys.md"
TITLES = {
    "": "Keys without a section",
    "trainer": "trainer: how long and how training goes",
    "evaluation": "evaluation: figures",
    "data": "data: images, captions, batches",
    "encoder": "encoder: the two towers",
    "model": "model",
    "loss": "loss: weights and settings of the terms",
    "parts": "parts: what a batch brings beside images and captions, in model=hycoclip",
    "discovery": "discovery: category discovery, in model=simgcd and hypgcd",
    "optim": "optim: optimizer and learning rate",
    "logger": "logger",
}
HEAD = """# Keys of the configuration

Written by `python scripts/document_keys.py` from meru/configuration and configs/; do not edit it.

On the command line: `key=value`; `+key=value` for a key that the chosen files lack; `~key` removes one. Every value is
checked before anything is made. A whole number is written without a point: `4.0` is none. A number is never NaN or
infinite. Paths start where you stand, and `~` is the home folder; a path or text is taken as it is typed, Chinese,
spaces (quoted for the shell), brackets and commas included. Lists: `'data.crop_scale=[0.5,1.0]'`. With `--multirun`,
commas separate values, so a value with a comma needs quotes of its own: `'folder="a,b"'`.

*Default*: without a recipe; those of `experiment=…` set values of their own, and `--cfg job` shows what a command comes
to. Where files of configs/ differ, the value depends on the chosen file, and a few are shown. *Resume*: "fixed" if a
resumed run refuses another value, "acts" if another value counts from then on.

A new key in configs/ needs a line in meru/configuration/declarations.py.
"""


def main() -> None:
    """Write the page, or compare it with what would be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is out of date")
    arguments = parser.parse_args()
    with one_line_errors():
        text = page()
        if not arguments.check:
            write_text(PAGE, text)
        elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            raise UserError(f"{PAGE} is out of date: run python scripts/document_keys.py", exit_code=1)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    found = defaults_and_comments(PROJECT / "configs")
    for section, title in TITLES.items():
        lines += [f"## {title}", "", *table({key: TRAIN[key] for key in TRAIN if section_of(key) == section}, found)]
    figures = {kind: validation_figures(kind=kind) for kind in ("class", "identity")}
    lines += [
        "## Figures for trainer.monitor",
        "",
        "Data sets of classes (`pointing/…` where captions name parts):",
        "",
    ]
    lines += [", ".join(f"`{name}`" for name in figures["class"]), "", "Data sets of persons:", ""]
    lines += [", ".join(f"`{name}`" for name in figures["identity"]), ""]
    own = defaults_and_comments(PROJECT / "configs" / "evaluate.yaml")
    keys = {key: known for key, known in EVALUATE.items() if not key.startswith("data.")}
    lines += ["## scripts/evaluate.py", "", *table(keys, own, resume=False)]
    return "\n".join(lines).rstrip() + "\n"


def section_of(key: str) -> str:
    """`trainer` of `trainer.epochs`, "" of `seed`."""
    return key.partition(".")[0] if "." in key else ""


def table(keys: dict[str, Key], found: dict[str, tuple[list[str], str]], *, resume: bool = True) -> list[str]:
    """A row a key: name, default, what is allowed, resumed runs, meaning."""
    head = ["key", "default", "allowed", *(["resume"] if resume else []), "meaning"]
    lines = [row(head), "|---" * len(head) + "|"]
    for key, known in keys.items():
        if isinstance(known.kind, Section) and f"{key}.*" in keys:
            continue
        defaults, comment = found.get(key, ([], ""))
        default = ", ".join(f"`{value}`" for value in defaults[:4]) + (", …" if len(defaults) > 4 else "")
        meaning = known.meaning or comment
        lines.append(
            row(
                [f"`{key}`", default, known.allowed, *(["fixed" if known.fixed else "acts"] if resume else []), meaning]
            )
        )
    return [*lines, ""]


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "\\<") for cell in cells) + " |"


def defaults_and_comments(place: Path) -> dict[str, tuple[list[str], str]]:
    """Key → its different values in the files of configs/ but the recipes, and the first comment beside it."""
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
    """Every key of a YAML file in block style, its value where it is no section, and the comment beside it."""
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


if __name__ == "__main__":
    main()
