"""The report in Weights & Biases that compares MERU, CLIP and patch runs: `scripts/dashboard.py`."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from meru.errors import UserError
from meru.files import make_folder_of, output_file, write_text
from meru.optional_part import reason_of

TITLE = "MERU, CLIP and patches"
NEEDED = "wandb-workspaces"
SECONDS = 10  # to wait for the server's first answer
GRID = 24  # columns of W&B's grid
_NAME = r"[\w.\-]+"


class Plot(NamedTuple):
    """A panel of the dashboard.

    Attributes:
        title: Written above.
        metrics: Names that runs log.
        kind: `curves`, `bars` of the last values, or `histograms` over the steps, which W&B shows of one run at a time.
    """

    title: str
    metrics: tuple[str, ...]
    kind: str = "curves"


# Heading → its panels, from left to right, three in a row.
SECTIONS: dict[str, tuple[Plot, ...]] = {
    "Test split": (
        Plot(
            "retrieval by class, R@1", ("test/text_to_image/class/recall@1", "test/image_to_text/class/recall@1"), True
        ),
        Plot("retrieval of the image, R@10", ("test/text_to_image/image/recall@10",), "bars"),
        Plot("classes", ("test/zero_shot/accuracy@1", "test/class_captions/accuracy@1"), "bars"),
    ),
    "Retrieval in validation": (
        Plot("text → image, same class, R@1", ("validation/text_to_image/class/recall@1",)),
        Plot("image → text, same class, R@1", ("validation/image_to_text/class/recall@1",)),
        Plot("text → image, same image, R@10", ("validation/text_to_image/image/recall@10",)),
        Plot("text → image, same class, mAP", ("validation/text_to_image/class/mean_average_precision",)),
        Plot("image → text, same class, mAP", ("validation/image_to_text/class/mean_average_precision",)),
        Plot("pointing (patches)", ("validation/pointing/accuracy@1", "validation/box_centre/accuracy@1")),
    ),
    "Zero-shot in validation": (
        Plot("zero-shot, top-1", ("validation/zero_shot/accuracy@1",)),
        Plot("zero-shot, top-5", ("validation/zero_shot/accuracy@5",)),
        Plot("class by captions, top-1", ("validation/class_captions/accuracy@1",)),
    ),
    "Radii and cones": (
        Plot("distance of images and texts from the origin", ("radius/image", "radius/text")),
        Plot("norms of images", ("norm/image",), "histograms"),
        Plot("norms of texts", ("norm/text",), "histograms"),
        Plot("scales of the features", ("alpha/image", "alpha/text")),
        Plot("share of images in their caption's cone", ("share_in_cone",)),
        Plot("share of captions in the dead radius", ("clamped/half_aperture",)),
        Plot("share of points at the largest radius", ("clamped/lift_image", "clamped/lift_text")),
    ),
    "Curvature and temperature": (
        Plot("curvature", ("curvature",)),
        Plot("curvature at its bounds", ("clamped/curvature",)),
        Plot("inverse temperature", ("logit_scale",)),
    ),
    "Losses": (
        Plot("loss", ("loss",)),
        Plot("contrast", ("loss/contrastive",)),
        Plot("entailment", ("loss/entailment",)),
        Plot("words and patches", ("loss/word_grounding", "loss/word_contrast", "loss/patch_agreement")),
        Plot("norm of the gradient", ("gradient_norm",)),
        Plot("learning rate", ("learning_rate",)),
    ),
}


def metrics() -> list[str]:
    """Every metric that a panel names."""
    return [name for plots in SECTIONS.values() for plot in plots for name in plot.metrics]


def make_dashboard(
    *,
    entity: str,
    project: str = "meru",
    runs: str | None = None,
    group: str = "name",
    dry_run: bool = False,
    output: str | None = None,
) -> str:
    """Save the report in W&B, or write what would be sent; returns a line with its place.

    Args:
        entity, project: Where the runs are, and the report will be.
        runs: Names of runs (their key `name`), separated by commas; None: all runs of the project.
        group: The key of the configuration whose value runs of one colour share.
        dry_run: Write the report as JSON instead of sending it; needs no network.
        output: The JSON file, with `dry_run`.

    Raises:
        UserError: if the package, the log-in, the network or the project is missing, or a name is none.
    """
    for key, value in (("entity", entity), ("project", project), ("group", group)):
        if not re.fullmatch(_NAME, value):
            raise UserError(f"{key}={value}: a name has letters, digits, and . _ - only")
    names = [] if runs is None else [name.strip() for name in runs.split(",")]
    if wrong := [name for name in names if not re.fullmatch(_NAME, name)]:
        raise UserError(f"runs={runs}: '{wrong[0]}' is no name of a run, the key `name` of its configuration")
    if output is not None and not dry_run:
        raise UserError(f"output={output}: only dry_run=true writes a file")
    path = output_file(output or "report.json", example="report.json") if dry_run else None
    library = _library()
    if path:
        make_folder_of(path)
        text = json.dumps(specification(library, entity, project, names, group), indent=1, ensure_ascii=False)
        write_text(path, f"{text}\n")
        return f"not sent: {path}"
    _require_access()
    return f"report: {_save(_report(library, entity, project, names, group, look_up=True), f'{entity}/{project}')}"


def specification(
    library: ModuleType, entity: str, project: str, names: Sequence[str], group: str
) -> Mapping[str, Any]:
    """What would be sent, but for the project's id, which only the server knows."""
    sent = _report(library, entity, project, names, group, look_up=False)._to_model()
    read = sent.model_dump(mode="json", by_alias=True, exclude_none=True)
    for block in read["spec"]["blocks"]:
        for runset in block.get("metadata", {}).get("runSets", []):
            runset["project"] = {"name": project, "entityName": entity}
    return read


def _report(library: ModuleType, entity: str, project: str, names: Sequence[str], group: str, *, look_up: bool) -> Any:
    """The report; with `look_up`, its runs are found by a request to the server."""
    filters = f"Config('name') in [{', '.join(map(repr, names))}]" if names else ""
    place = {"entity": entity, "project": project} if look_up else {}
    runset = library.Runset(
        **place,
        name="runs",
        filters=filters,
        groupby=[f"config.{group}"],
        order=[library.OrderBy("Name", ascending=True)],
    )
    blocks = [
        library.MarkdownBlock(
            f"Runs are grouped by `{group}`: a line is the mean over seeds, the band its standard deviation. Figures "
            "of retrieval and classification are shares; `test/…` exists for finished runs only."
        )
    ]
    for heading, plots in SECTIONS.items():
        panels = [_panel(library, plot, number, group) for number, plot in enumerate(plots)]
        blocks += [library.H2(heading), library.PanelGrid(runsets=[runset], panels=panels)]
    comparer = library.RunComparer(diff_only="split", layout=library.Layout(x=0, y=0, w=GRID, h=12))
    every = library.Runset(**place, name="runs", filters=filters, order=[library.OrderBy("Name", ascending=True)])
    blocks += [library.H2("What differs"), library.PanelGrid(runsets=[every], panels=[comparer])]
    return library.Report(entity=entity, project=project, title=TITLE, width="fluid", blocks=blocks)


def _panel(library: ModuleType, plot: Plot, number: int, group: str) -> Any:
    width, height = GRID // 3, 8
    layout = library.Layout(x=number % 3 * width, y=number // 3 * height, w=width, h=height)
    over_seeds = {"groupby": library.Config(group), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    if plot.kind == "bars":
        return library.BarPlot(title=plot.title, layout=layout, metrics=list(plot.metrics), **over_seeds)
    grouped = over_seeds if plot.kind == "curves" else {}
    return library.LinePlot(title=plot.title, layout=layout, x="step", y=list(plot.metrics), **grouped)


def _save(report: Any, place: str) -> str:
    try:
        return report.save().url
    except ValueError as error:
        if "not found" in str(error):
            raise UserError(
                f"{place}: there is no such project, or no access to it: check entity= and project="
            ) from None
        raise
    except Exception as error:  # wandb has many kinds
        raise UserError(f"{place}: W&B refused the report: {reason_of(error)[:200]}", exit_code=1) from error


def _library() -> ModuleType:
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("wandb", "wandb_workspaces"):
            raise UserError(f"the dashboard needs {NEEDED}: pip install {NEEDED}", exit_code=1) from None
        raise
    return library


def _require_access() -> None:
    """Refuse early what wandb would wait minutes for: a missing log-in, and a missing network."""
    import wandb

    from meru.training.loggers.wandb_logger import is_logged_in

    if not is_logged_in(wandb):
        raise UserError("not logged in to W&B: run `wandb login`, or set WANDB_API_KEY", exit_code=1)
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        urllib.request.urlopen(server, timeout=SECONDS).close()
    except urllib.error.HTTPError:  # an answer all the same
        return
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"{server} cannot be reached ({reason}): check the network", exit_code=1) from None
