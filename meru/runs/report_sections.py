"""The sections of a report of runs: figures, curves, clusters, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meru.reports.embedded_pictures import embedded
from meru.reports.html import Both, Cell, Child, Markup, drawing, element, folded, picture, section, table
from meru.reports.learning_curves import colour, curves_svg
from meru.reports.over_seeds import cell, chance_of, mean_chance
from meru.reports.tables import ROWS, is_share
from meru.run_layout import ATTENTION, DIAGNOSIS, PLOTS, TREES
from meru.runs.record import Group, Record
from meru.runs.report_configuration import shown
from meru.tasks.columns import COLUMNS

PICTURES_OF_FOLDER, MOST_PICTURES, MOST_CLUSTERS = 8, 24, 25
PICTURES = {
    ATTENTION: Both("Where words attend", "词语的注意力"),
    TREES: Both("Trees of classes", "类别树"),
    PLOTS: Both("Plots", "图"),
    DIAGNOSIS: Both("Diagnosis", "诊断"),
}
# What is logged in training, by name → its title; a name that ends in / stands for all that begin with it.
LOGGED = {
    "loss": Both("loss", "损失"),
    "loss/": Both("loss term", "损失项"),
    "curvature": Both("curvature", "曲率"),
    "logit_scale": Both("inverse temperature", "温度的倒数"),
    "alpha/image": Both("scale of image features", "图像特征的尺度"),
    "alpha/text": Both("scale of text features", "文本特征的尺度"),
    "share_in_cone": Both("images in the cones of their captions", "图像落在文本锥内的比例"),
    "radius/": Both("distance from the origin", "到原点的距离"),
    "labelled/accuracy": Both("accuracy on labelled images", "有标签图像的准确率"),
    "gradient_norm": Both("norm of the gradient", "梯度的范数"),
    "learning_rate": Both("learning rate", "学习率"),
}
LOGGED_SHARES = ("share_in_cone", "labelled/accuracy")


def runs_section(groups: Sequence[Group]) -> Markup:
    """Every run with its state and duration."""
    header = [
        Both("run", "运行"), Both("seed", "种子"), Both("state", "状态"), Both("steps", "步数"),
        Both("minutes", "分钟"), Both("CPU minutes", "CPU 分钟"),
    ]  # fmt: skip
    rows = []
    for group in groups:
        for record in group.records:
            minutes = [
                f"{record.duration[name]:.1f}" if record.duration else "–" for name in ("minutes", "cpu_minutes")
            ]
            step = record.last_step
            rows.append(
                [
                    Cell(group.label, str(record.folder)),
                    shown(record.settings.get("seed")),
                    Both("finished", "已完成") if record.figures else Both("without test figures", "没有测试指标"),
                    "–" if step is None else f"{step:,}",
                    *minutes,
                ]
            )
    remarks = [
        element("p", record.remark, class_="note") for group in groups for record in group.records if record.remark
    ]
    return section(Both("Runs", "运行"), table(header, rows), *remarks)


# ---------------------------------------------------------------- figures


def figure_sections(groups: Sequence[Group]) -> list[Markup]:
    """The main figures of each kind with their chance levels, of the test split and of validation; then all."""
    note = Both(
        "In percent, with the chance level below: the expectation under a random order. Several seeds: mean ± sample "
        "standard deviation.",
        "单位为百分比，下方为随机水平（随机排序的期望值）。多个种子：均值 ± 样本标准差。",
    )
    finished = [group for group in groups if any(record.figures for record in group.records)]
    parts = [element("p", note, class_="note"), *main_tables(finished, lambda record: record.figures)]
    unfinished = [
        group for group in groups if group not in finished and any(record.last_validation() for record in group.records)
    ]
    if unfinished:
        parts.append(element("h3", Both("Not finished: the last validation", "未完成：最近一次验证")))
        parts += main_tables(unfinished, Record.last_validation)
    if not finished and not unfinished:
        parts = [element("p", Both("There are no figures yet.", "还没有指标。"))]
    if finished:
        parts.append(folded(Both("All figures of the test split", "测试集的全部指标"), _all_figures(finished)))
    return [section(Both("Figures", "指标"), *parts)]


def main_tables(groups: Sequence[Group], figures_of: Callable[[Record], Mapping[str, float | None]]) -> list[Markup]:
    """A table for each kind of figures that scripts/compare.py knows: rows are figures, columns are groups."""
    by_kind: dict[str, list[Group]] = {}
    for group in groups:
        names = {name for record in group.records for name in figures_of(record)}
        kind = next((kind for kind, columns in COLUMNS.items() if names & {*columns.values()}), None)
        if kind is not None:
            by_kind.setdefault(kind, []).append(group)
    tables = []
    for kind, members in by_kind.items():
        rows = []
        for title, key in COLUMNS[kind].items():
            if any(key in figures_of(record) for group in members for record in group.records):
                rows.append([title, *(_figure(group, key, figures_of) for group in members)])
        tables.append(table(["", *map(_heading, members)], rows))
    return tables


def _heading(group: Group) -> Markup:
    count = len(group.records)
    seeds = Both(f"{count} seeds", f"{count} 个种子") if count > 1 else ""
    return element("span", group.label, *([element("small", seeds)] if seeds else []))


def _figure(group: Group, key: str, figures_of: Callable[[Record], Mapping[str, float | None]]) -> Cell:
    found = [figures_of(record).get(key) for record in group.records]
    chance = mean_chance(map(figures_of, group.records), key)
    below = Both(f"chance {cell([chance])}", f"随机 {cell([chance])}") if chance is not None else ""
    return Cell(cell(found, share=is_share(key)), below)


def _all_figures(groups: Sequence[Group]) -> Markup:
    names = dict.fromkeys(name for group in groups for record in group.records for name in record.figures)
    rows = []
    for name in names:
        if name.rpartition("/")[2].startswith("chance_") and name.replace("/chance_", "/") in names:
            continue  # stands below its figure
        rows.append(
            [
                Cell(name, ROWS.get(name.rpartition("/")[0], "")),
                *(_figure(group, name, lambda record: record.figures) for group in groups),
            ]
        )
    return table(["", *map(_heading, groups)], rows)


# ---------------------------------------------------------------- curves


def curves_section(groups: Sequence[Group]) -> Markup:
    """What was logged in training and validation, a small plot each; one colour a group."""
    names = dict.fromkeys(name for group in groups for record in group.records for name in record.curves)
    wanted: dict[str, Child] = {}
    for pattern, title in LOGGED.items():
        found = [name for name in names if name == pattern or (pattern.endswith("/") and name.startswith(pattern))]
        wanted |= {name: title for name in found}
    validated = {f"validation/{key}": title for columns in COLUMNS.values() for title, key in columns.items()}
    wanted |= {
        name: Both(f"validation, {title}", f"验证，{title}") for name, title in validated.items() if name in names
    }
    drawings = [_curve(groups, name, title, number) for number, (name, title) in enumerate(wanted.items())]
    if not drawings:
        return section(Both("Learning curves", "学习曲线"), element("p", Both("Nothing was logged.", "没有记录。")))
    legend = [
        element("li", element("span", class_="swatch", style=f"background: {colour(number)}"), group.label)
        for number, group in enumerate(groups)
    ]
    about = Both(
        "Over the steps. Line: the mean over seeds; band: one standard deviation, or the range of two; dotted: chance.",
        "横轴为步数。线：各种子的均值；色带：一倍标准差（两个种子时为其范围）；点线：随机水平。",
    )
    return section(
        Both("Learning curves", "学习曲线"),
        element("p", about, class_="note"),
        element("ul", *legend, class_="legend"),
        element("div", *drawings, class_="grid"),
    )


def _curve(groups: Sequence[Group], name: str, title: Child, number: int) -> Markup:
    lines = {group.label: [curve for each in group.records if (curve := each.curves.get(name))] for group in groups}
    share = name.startswith("validation/") or name in LOGGED_SHARES
    chances = [
        each.curves[key][-1][1] for group in groups for each in group.records if (key := chance_of(name)) in each.curves
    ]
    scale, unit = (100, " %") if share else (1, "")
    told = []
    for label, curves in lines.items():
        if curves:
            first, last = (sum(curve[place][1] for curve in curves) / len(curves) for place in (0, -1))
            told.append(f"{label} from {scale * first:.4g}{unit} to {scale * last:.4g}{unit}")
    steps = [step for curves in lines.values() for curve in curves for step, _ in curve]
    alt = f"{name} from step {min(steps):.0f} to {max(steps):.0f}: {'; '.join(told)}"
    caption = element("span", title, " ", element("code", name), *([" (%)"] if share else []))
    svg = curves_svg(lines, share=share, chance=chances[0] if chances else None)
    return drawing(svg, number=number, alt=alt, caption=caption)


# ---------------------------------------------------------------- clusters and pictures


def clusters_section(record: Record, label: str) -> Markup:
    """How the predicted classes of a discovery run are filled."""
    clusters, images = record.clusters, sum(each.images for each in record.clusters)
    rows = [
        [
            each.name,
            str(each.images),
            str(each.labelled),
            "–" if each.confidence is None else f"{each.confidence:.2f}",
            "–" if each.class_name is None else Cell(each.class_name, f"{100 * each.share:.0f} %"),
        ]
        for each in clusters[:MOST_CLUSTERS]
    ]
    header = [
        Both("predicted class", "预测类别"), Both("images", "图像数"), Both("labelled", "有标签"),
        Both("confidence", "置信度"), Both("most frequent class", "最多的真实类别"),
    ]  # fmt: skip
    told = Both(
        f"{images:,} images in {len(clusters)} predicted classes; the largest holds {clusters[0].images}, the smallest "
        f"{clusters[-1].images}." + (f" The {MOST_CLUSTERS} largest:" if len(clusters) > MOST_CLUSTERS else ""),
        f"{images:,} 张图像分为 {len(clusters)} 个预测类别；最大的有 {clusters[0].images} 张，最小的有 "
        f"{clusters[-1].images} 张。" + (f"最大的 {MOST_CLUSTERS} 个：" if len(clusters) > MOST_CLUSTERS else ""),
    )
    where = element("p", element("code", str(record.folder / "clusters.csv")), class_="note")
    return section(
        Both(f"Discovered classes: {label}", f"发现的类别：{label}"), element("p", told), where, table(header, rows)
    )


def pictures_sections(groups: Sequence[Group]) -> list[Markup]:
    """Pictures of the run folders, at most so many and made smaller; of a group those of one run."""
    sections, left = [], MOST_PICTURES
    for folder, title in PICTURES.items():
        for group in groups:
            record = next((each for each in group.records if (each.folder / folder).is_dir()), None)
            if record is None:
                continue
            part, used = _pictures(record, folder, most=min(left, PICTURES_OF_FOLDER))
            left -= used
            if part:
                name = Both(f"{title.english}: {group.label}", f"{title.chinese}：{group.label}")
                sections.append(section(name, *part))
    return sections


def _pictures(record: Record, folder: str, *, most: int) -> tuple[list[Markup], int]:
    place = record.folder / folder
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    shown_pictures, unreadable = [], 0
    for path in paths:
        if len(shown_pictures) == most:
            break
        found = embedded(path)
        if found is None:
            unreadable += 1
            continue
        shown_pictures.append(picture(*found, alt=_told(folder, path), caption=path.name))
    rest = len(paths) - len(shown_pictures) - unreadable
    parts = [element("div", *shown_pictures, class_="grid wide")] if shown_pictures else []
    if rest or unreadable:
        text = Both(
            f"{rest} more in {place}" + (f"; {unreadable} cannot be read" if unreadable else ""),
            f"{place} 中还有 {rest} 张" + (f"；{unreadable} 张无法读取" if unreadable else ""),
        )
        parts.append(element("p", text, class_="note"))
    return parts, len(shown_pictures)


def _told(folder: str, path: Path) -> str:
    return f"{PICTURES[folder].english}, {path.stem.replace('_', ' ')}"
