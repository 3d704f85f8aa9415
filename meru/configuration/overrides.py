"""Read `key=value` words of a command line as the user means them, and write words that can be pasted.

Hydra has its own grammar for values: Chinese, brackets, `=`, `~` and commas have a meaning in it, or are refused.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meru.configuration import declaration, unknown_key
from meru.configuration.check import CALLS, GROUPS, is_section, nearest_keys, shown
from meru.configuration.key import Key
from meru.configuration.kinds import Either, ListOf, Text
from meru.configuration.targets import built_on
from meru.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_WORD = re.compile(r"(\+{0,2})([\w$.]+)=(.*)", re.DOTALL)
_MULTIRUN = ("-m", "--multirun")
_KEY_IN_DASHES = re.compile(r"--([+~]{0,2}[\w.@/:-]+)=(.*)", re.DOTALL)
# Sections whose keys may be absent from the chosen file: `check` refuses those that their `_target_` does not take.
OPEN = ("encoder.image.", "encoder.text.", "logger.", "optim.optimizer.", "optim.multipliers.")
_HYDRA_FLAGS = {
    "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion", "config-path",
    "config-name", "config-dir", "experimental-rerun", "info",
}  # fmt: skip
_HYDRA_LETTERS = {"h", "c", "p", "r", "m", "sc", "cp", "cn", "cd", "i"}


def readable(words: Sequence[str], *, command: str) -> list[str]:
    """Quote values for Hydra that it would misread or refuse although their meaning is unambiguous.

    Paths and texts are used as typed: `folder=鸟类`, `folder=a,b`, `name=1e3`. With --multirun, commas separate
    values.

    Args:
        words: The command line without the program.
        command: Name of the configuration, `train` or `evaluate`.

    Raises:
        UserError: for an unknown key, or a value that needs quotes; the message shows how to write them.
    """
    multirun = any(word in _MULTIRUN for word in words)
    read = []
    for position, (before, word) in enumerate(zip(("", *words), words, strict=False)):
        if _is_foreign_flag(word):
            raise UserError(_as_override(word, words[position + 1 : position + 2], command=command))
        of_flag = before.startswith("-") and "=" not in before and before not in _MULTIRUN  # `--cfg job`
        read.append(word if of_flag else _opened(_readable(word, command=command, multirun=multirun), command=command))
    return read


def _opened(word: str, *, command: str) -> str:
    """The word, with `++` if the chosen file may lack its key although the tower, logger or optimizer takes it."""
    known = word.startswith(OPEN) and declaration(word.partition("=")[0], command=command)
    return f"++{word}" if known else word


def _is_foreign_flag(word: str) -> bool:
    """Whether a word looks like a flag, but is not one of Hydra's."""
    name = word.lstrip("-")
    known = _HYDRA_FLAGS if word.startswith("--") else _HYDRA_LETTERS
    return word.startswith("-") and name[:1].isalpha() and "=" not in word and name not in known


def _as_override(flag: str, following: Sequence[str], *, command: str) -> str:
    """An error message that says what to write in place of `--epochs 3`."""
    name = flag.lstrip("-").replace("-", "_")
    key = name if declaration(name, command=command) else next(iter(nearest_keys(name, command=command)), "<key>")
    value = next((word for word in following if "=" not in word and not word.startswith("-")), "<value>")
    return f"{' '.join([flag, *([value] if value != '<value>' else [])])}: no such flag; write {key}={value}"


def _readable(word: str, *, command: str, multirun: bool) -> str:
    form = _WORD.fullmatch(word)
    if not form:
        if not word.startswith("~") and "=" not in word and "@" not in word and not word.startswith("-"):
            raise UserError(f"'{word}' is not an override: write <key>=<value>, as in seed=3 (all keys: docs/keys.md)")
        return word
    plus, key, value = form.groups()
    if command == "evaluate" and key.startswith("data.") and not plus:  # a key of the run, not of configs/evaluate.yaml
        plus, word = "++", f"++{word}"
    if key.startswith("optim.multipliers.") and key.count(".") > 2:  # Hydra would treat the dots as sections
        braces = f"{{{key.removeprefix('optim.multipliers.')}: {value}}}"
        raise UserError(f"{word}: put a name with dots in braces: '+optim.multipliers={braces}'")
    known = declaration(key, command=command)
    if key.partition(".")[0] == "hydra":
        return word
    free = key in GROUPS or is_section(key, command=command) or key.startswith(tuple(f"{each}." for each in CALLS))
    if known is None and not plus and not free:
        raise unknown_key(key, command=command)
    quoted = f"{plus}{key}={_quoted(value)}"
    is_text = known is not None and isinstance(known.kind, Text)
    parsed = _parsed(word)
    if key in GROUPS and parsed is not None and not parsed.is_sweep_override():
        if parsed.value() is None:
            raise UserError(f"{word}: give the name of a file in configs/{key}, or leave it out")
        _refuse_bases(key, parsed.value())
        return word if isinstance(parsed.value(), (str, list)) else quoted
    if parsed is None:
        if multirun and "," in value:
            raise UserError(f"{word}: with --multirun commas separate values; quote each: {_example(key, None)}")
        if value[:1] in ("'", '"') or (value[:1] in ("[", "{") and not is_text):
            allowed = f"give {known.allowed}; " if known else ""
            raise UserError(f"{word}: {allowed}quote texts, and the whole word for the shell: {_example(key, known)}")
        return quoted
    if parsed.is_sweep_override():
        if multirun:
            if key in GROUPS:
                _refuse_bases(key, value.split(","))
            return _checked_sweep(word, key, known, parsed)
        if is_text:
            return quoted
        if known is not None and not isinstance(known.kind, Either):
            raise UserError(f"{word}: give {known.allowed}; several values, one per run, need --multirun")
        return word
    return quoted if is_text and isinstance(parsed.value(), (bool, int, float, list, dict)) else word


def _refuse_bases(group: str, chosen: object) -> None:
    """Refuse a file that is only a base of others: `experiment=_small`."""
    for name in chosen if isinstance(chosen, list) else [chosen]:
        if str(name).startswith("_"):
            known = ", ".join(built_on(group, name)[:6])
            advice = f"choose a file that builds on it, such as {known}" if known else f"see configs/{group}"
            raise UserError(f"{group}={name}: files with _ are only bases of other files; {advice}")


def _checked_sweep(word: str, key: str, known: Key | None, parsed: Override) -> str:
    """Check all values of a sweep before the first run begins, and return the word."""
    if known is None:
        return word
    start, _, values = word.partition("=")
    if isinstance(known.kind, Text) and parsed.is_choice_sweep() and not set(values) & set("'\"()[]{}$\\"):
        word = f"{start}={','.join(_quoted(value.strip()) for value in values.split(','))}"
        parsed = _parsed(word)
    for each in islice(parsed.sweep_string_iterator(), 1000):
        one = _parsed(f"{key}={each}")
        value = each if one is None else one.value()
        if not known.takes(value) and "${" not in str(value):
            raise UserError(f"{key}={shown(value)}: give {known.allowed}")
    return word


def typed_keys(words: Sequence[str]) -> set[str]:
    """The keys on a command line, without choices of groups."""
    parsed = [_parsed(word) for word in words]
    return {each.key_or_group for each in parsed if each is not None} - set(GROUPS)


def pasteable(key: str, value: str | Path) -> str:
    """Format `key=value` for pasting into a shell, quoted for the shell and for Hydra as needed."""
    return shlex.quote(override(key, value))


def override(key: str, value: str | Path) -> str:
    """Format `key=value` so that Hydra uses the value literally."""
    text = str(value).replace("${", "\\${")
    word = f"{key}={text}"
    parsed = _parsed(word)
    if parsed is None or parsed.is_sweep_override() or parsed.value() != text:
        word = f"{key}={_quoted(text)}"
    return word


def read_override(word: str) -> tuple[str, Any]:
    """Key and value of an override that Hydra has accepted, without `+` and `~`."""
    parsed = _parsed(word)
    return parsed.key_or_group, parsed.value()


def _parsed(word: str) -> Override | None:
    """Parse a word with Hydra; None if Hydra refuses it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except HydraException:
        return None


def _quoted(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=text, quote=Quote.double).with_quotes()


def _example(key: str, known: Key | None) -> str:
    """An example of quoting for the shell and for Hydra."""
    example = known.kind.example if known and isinstance(known.kind, ListOf) else '"a,b"'
    return shlex.quote(f"{key}={example}")


def overrides_of(word: str) -> list[str]:
    """Hydra's overrides for a word of the command line: the word itself, unless it is `--key=value`.

    Agents of wandb's sweeps use that form, with Python values: None is null, and a dictionary of nested parameters
    gives one override per key.
    """
    form = _KEY_IN_DASHES.fullmatch(word)
    if form is None or form[1] in _HYDRA_FLAGS:
        return [word]
    key, text = form.groups()
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None if text == "None" else text
    if isinstance(value, dict) and value:
        return [override for name, each in value.items() for override in overrides_of(f"--{key}.{name}={each}")]
    return [f"{key}={text if isinstance(value, (str, int, float, tuple)) else _in_hydra(value)}"]


def _in_hydra(value: object) -> str:
    """Format a Python value for Hydra's overrides."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_in_hydra, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{_in_hydra(each)}' for name, each in value.items())}}}"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{quoted}'"
    return str(value)
