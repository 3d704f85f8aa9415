"""The sections of a report of runs about their configuration and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from meru.reports.html import Both, Cell, Child, Markup, element, folded, section, table
from meru.runs.record import Group


def configuration_section(groups: Sequence[Group], defaults: Sequence[Mapping[str, object] | None]) -> Markup:
    """What differs from the defaults, what differs between the groups, and all keys.

    Args:
        groups: The groups of runs.
        defaults: Of each group, its keys without recipe and command line; None if unknown.
    """
    settings = [group.records[0].compared() for group in groups]
    keys = list(dict.fromkeys(key for each in settings for key in each if key != "name"))
    labels = [group.label for group in groups]
    parts: list[Markup] = []
    rows = []
    for key in keys:
        cells = [_beside_default(each, known, key) for each, known in zip(settings, defaults, strict=True)]
        if any(isinstance(each, Cell) for each in cells):
            rows.append([element("code", key), *cells])
    known = any(each is not None for each in defaults)
    parts.append(element("h3", Both("From the defaults", "与默认值的差异")))
    told = Both(
        "The default of the chosen data, model, encoder and optimizer stands below a value.",
        "所选数据、模型、编码器与优化器的默认值列在各值下方。",
    )
    if not known:
        told = Both("The defaults of this older run are unknown.", "这是旧版本的运行，默认值未知。")
    elif not rows:
        told = Both("Every key has its default.", "所有键均为默认值。")
    parts.append(element("p", told, class_="note"))
    if rows:
        parts.append(table(["", *labels], rows))
    different = [key for key in keys if len({_value(each, key) for each in settings if key in each}) > 1]
    if different:
        rows = [[element("code", key), *(_value(each, key) for each in settings)] for key in different]
        parts += [element("h3", Both("Between these runs", "各运行之间的差异")), table(["", *labels], rows)]
    every = [[element("code", key), *(_value(each, key) for each in settings)] for key in sorted(keys)]
    parts.append(folded(Both("All keys", "全部键"), table(["", *labels], every)))
    return section(Both("Configuration", "配置"), element("div", *parts, class_="words"))


def _value(settings: Mapping[str, object], key: str) -> str:
    return shown(settings[key]) if key in settings else "–"


def _beside_default(settings: Mapping[str, object], defaults: Mapping[str, object] | None, key: str) -> Child | Cell:
    """The value, with its default below if they differ."""
    value = _value(settings, key)
    if defaults is None or key not in settings or value == _value(defaults, key):
        return value
    default = _value(defaults, key)
    return Cell(value, Both(f"default {default}", f"默认 {default}"))


def shown(value: object) -> str:
    """A value as YAML would have it: null, true; 0 and 0.0 are the same number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def environment_section(groups: Sequence[Group]) -> Markup:
    """Commit, device and versions of every run that recorded them; nothing if none did."""
    records = [(group.label, each) for group in groups for each in group.records if each.environment]
    if not records:
        return Markup("")
    names = list(dict.fromkeys(name for _, record in records for name in record.environment))
    rows = [
        [Cell(label, record.folder.name), *(record.environment.get(name, "–") for name in names)]
        for label, record in records
    ]
    return section(Both("Environment", "环境"), element("div", table(["", *names], rows), class_="words"))
