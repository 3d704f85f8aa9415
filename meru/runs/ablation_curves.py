"""The section `curves:` of an ablation: one key at a time gets other values, from the first variant on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from meru.configuration.overrides import readable
from meru.configuration.saved import leaves
from meru.errors import UserError
from meru.files import write_text
from meru.reports.over_seeds import Runs
from meru.runs.ablation_file import Ablation, Variant, meaning, same_value, slug
from meru.runs.ablation_plan import configuration_of

Points = Mapping[str, Mapping[str, str]]
"""Title of a curve → value → the variant that has it."""


def with_curves(ablation: Ablation, base: list[str]) -> tuple[dict[str, Variant], Points]:
    """The variants of an ablation and those of its curves.

    A value that the first variant has anyway is not trained again.

    Args:
        ablation: The file.
        base: Overrides of all runs.

    Raises:
        UserError: for a curve beside a section `tuning:`, an unknown key, or the name of another variant.
    """
    variants, points = dict(ablation.variants), dict[str, dict[str, str]]()
    if not ablation.curves:
        return variants, points
    if ablation.tuning is not None:
        raise UserError("curves: they start from the first variant as it is; remove `tuning:` or give it a file")
    reference, first = next(iter(ablation.variants.items()))
    usual = dict(leaves(configuration_of([*base, *readable(first.overrides, command="train")])[0]))
    for title, curve in ablation.curves.items():
        points[title] = {}
        for value in curve.values:
            if not curve.overrides and curve.key in usual and same_value(meaning(value), usual[curve.key]):
                points[title][value] = reference
                continue
            name = f"{title} = {value}"
            if name in variants:
                raise UserError(f"curves: '{title}': there is a variant '{name}' already; give the curve another title")
            changes = [*first.overrides, *curve.overrides, f"{curve.key}={value}"]
            variants[name] = Variant(changes, first.start)
            points[title][value] = name
    folders = [slug(name) for name in variants]
    if twice := [name for name in variants if folders.count(slug(name)) > 1]:
        raise UserError(f"curves: {', '.join(twice)} would have the same folder name; give them other titles")
    return variants, points


def write_curves(
    points: Points, columns: Mapping[str, str], table: Mapping[str, Runs], output: Path, *, reference: str
) -> str:
    """Draw `ablation_curves.png` and write `sensitivity.md`; returns the text of the latter.

    Args:
        points: As of `with_curves`.
        columns: Title → name of a figure; the order of the table is by the first.
        table: Variant → its runs.
        output: The folder of the ablation.
        reference: The variant that the curves start from.
    """
    curves = {
        title: {value: table[name] for value, name in of_title.items() if name in table}
        for title, of_title in points.items()
    }
    usual = {
        title: next((value for value, name in of_title.items() if name == reference), None)
        for title, of_title in points.items()
    }
    curves = {title: runs for title, runs in curves.items() if runs}
    if reference not in table or not curves:
        return ""
    from meru.reports.attention import save_figure  # here: a mistake on the command line does not wait for PyTorch
    from meru.reports.sensitivity import sensitivity_figure, sensitivity_markdown

    text = sensitivity_markdown(curves, columns, table[reference])
    write_text(output / "sensitivity.md", text + "\n")
    figure = sensitivity_figure(curves, columns, usual=usual)
    save_figure(figure, output / "ablation_curves.png")
    return text
