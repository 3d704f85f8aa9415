"""A report of run folders as one file of HTML: `scripts/report.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from meru.errors import require
from meru.files import make_folder_of, output_file, write_text
from meru.reports.html import LANGUAGES, Both, element, page
from meru.runs.record import Group, Record, defaults_of, read_record
from meru.runs.report_configuration import configuration_section, environment_section, shown
from meru.runs.report_sections import (
    clusters_section,
    curves_section,
    figure_sections,
    pictures_sections,
    runs_section,
)
from meru.runs.visualize.curves import runs_of

NAME = "report.html"
NAMED_KEYS = 3  # keys in the label of a group whose name others share


def write_report(run: str, *, output: str | None = None, lang: str = "en") -> Path:
    """Write the report of one or several runs; returns the path of the file.

    Args:
        run: Run folders, separated by commas; a pattern such as `runs/birds_*/*` stands for the run folders among its
            matches.
        output: The file; None: `report.html` in the run folder, or beside several.
        lang: The language that is shown first.

    Raises:
        UserError: if there is no run folder, one has no readable configuration, or the file cannot be written.
    """
    require(lang, tuple(LANGUAGES), key="lang")
    folders = runs_of(run)
    place = folders[0] if len(folders) == 1 else folders[0].parent
    path = output_file(output or place / NAME, example=NAME)
    text = report([read_record(folder) for folder in folders], language=lang)
    make_folder_of(path)
    write_text(path, text, advice="choose another place with output=")
    return path


def report(records: Sequence[Record], *, language: str = "en") -> str:
    """The page about runs, at least one."""
    groups = grouped(records)
    title = ", ".join(dict.fromkeys(record.name for record in records))
    defaults = [defaults_of(group.records[0].folder) for group in groups]
    clusters = [
        clusters_section(record, group.label)
        for group in groups
        if (record := next((each for each in group.records if each.clusters), None))
    ]
    written = f"{datetime.now():%Y-%m-%d %H:%M}"
    return page(
        title,
        element("h1", title),
        element("p", Both(f"Report written {written}", f"报告写于 {written}"), class_="note"),
        runs_section(groups),
        *figure_sections(groups),
        curves_section(groups),
        *clusters,
        *pictures_sections(groups),
        configuration_section(groups, defaults),
        environment_section(groups),
        language=language,
    )


def grouped(records: Iterable[Record]) -> list[Group]:
    """Runs that differ in the seed alone together; groups of the same name are told apart by what differs."""
    members: dict[str, list[Record]] = {}
    for record in records:
        members.setdefault(f"{record.name}\0{record.group}", []).append(record)
    by_name: dict[str, list[list[Record]]] = {}
    for each in members.values():
        by_name.setdefault(each[0].name, []).append(each)
    return [Group(_label(each, by_name[each[0].name]), each) for each in members.values()]


def _label(members: list[Record], namesakes: list[list[Record]]) -> str:
    name = members[0].name
    if len(namesakes) == 1:
        return name
    settings = [dict(each[0].compared()) for each in namesakes]
    keys = [key for key in settings[0] if len({shown(each.get(key)) for each in settings}) > 1]
    own = dict(members[0].compared())
    words = [f"{key.rpartition('.')[2]}={shown(own.get(key))}" for key in keys[:NAMED_KEYS]]
    return f"{name} ({', '.join(words) or members[0].folder.name})"
