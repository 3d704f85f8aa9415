"""Checks the data of a configuration before a run begins: `scripts/prepare_data.py check`."""

from __future__ import annotations

import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from meru.configuration import absolute_paths, check, declaration
from meru.configuration.composing import compose
from meru.configuration.overrides import overrides_of, read_override, readable, typed_keys
from meru.configuration.saved import check_targets
from meru.data.datasets.own.boxes import LEAST_INSIDE, share_inside, shown
from meru.data.discovery.splits import UNKNOWN, DiscoveryData
from meru.data.inspection import across_splits, caption_lengths, decode_all, equal_files, foreign_scripts
from meru.data.records import ImageTextData
from meru.data.sampling import BatchPlan
from meru.errors import UserError
from meru.files import CHECKOUT, CONFIGS
from meru.tasks.contract import Task
from meru.tasks.kinds import task_of

# Recipes for data of one's own; other data sets have recipes of their own name.
RECIPES = {"pairs": "own_meru", "folder_discovery": "own_hypgcd", "person_list": "own_gahr"}
MODELS = ("meru", "gahr", "hypgcd")  # of which a data set has a recipe, the first that exists counts
SHOWN = 5  # files or classes of each kind
UNEVEN = 10  # times as many images in the largest class as in the smallest

log = logging.getLogger("meru")


def check_data(words: Sequence[str]) -> None:
    """Print what the data of a training command are like, and the command; see `scripts/prepare_data.py`.

    Args:
        words: Overrides as for `scripts/train.py`, with `data=` or `experiment=`. Without a recipe or a model, the
            recipe for these data is chosen.

    Raises:
        UserError: with exit code 2 for wrong overrides, also a path that does not exist, and with 1 if the data are not
            ready.
    """
    words = [override for word in words for override in overrides_of(word)]
    words = with_recipe(readable(words, command="train"))
    config, choices, typed = checked_configuration(words)
    try:
        task = task_of(config)(config, device=torch.device("cpu"))
        problems = list(report(task, name=choices["data"]))
    except UserError as error:
        raise UserError(str(error), exit_code=2 if of_command_line(error, config, typed) else 1) from error
    for problem in problems:
        _line("problem", problem)
    if problems:
        raise UserError(f"data={choices['data']}: {len(problems)} of the lines above to see to", exit_code=1)
    program = "meru-train" if CHECKOUT is None else "python scripts/train.py"
    print(f"ready; train with: {program} {shlex.join(words)}")


def checked_configuration(words: Sequence[str]) -> tuple[DictConfig, dict[str, str], set[str]]:
    """The training configuration of overrides, checked and with absolute paths; the choices; and the keys given.

    Raises:
        UserError: for wrong overrides, before any data are read.
    """
    config, choices = compose(words)
    typed = typed_keys(words)
    check(config, command="train", typed=typed)
    check_targets(config, source="the command line")
    absolute_paths(config)
    return config, choices, typed


def of_command_line(error: UserError, config: DictConfig, typed: Iterable[str]) -> bool:
    """Whether an error of a loader is a mistake on the command line: its message names a key, or a path is wrong."""
    paths = {key: OmegaConf.select(config, key) for key in typed if getattr(declaration(key), "kind", None)}
    absent = (
        isinstance(path, str) and declaration(key).kind.is_path and not Path(path).exists()
        for key, path in paths.items()
    )
    return str(error).startswith("data.") or any(absent)


def with_recipe(words: Sequence[str]) -> list[str]:
    """The words, with the recipe for their data in front if they choose neither a recipe nor a model.

    Raises:
        UserError: if they choose no data.
    """
    chosen = dict(read_override(word) for word in words)
    if "data" not in chosen and "experiment" not in chosen:
        names = ", ".join(sorted(path.stem for path in (CONFIGS / "data").glob("[!_]*.yaml")))
        raise UserError(f"which data? Give data=<name>, one of {names}, and keys such as data.root=<folder>")
    if "experiment" in chosen or "model" in chosen:
        return list(words)
    name = chosen["data"]
    names = [RECIPES.get(name), *(f"{name}_{model}" for model in MODELS)]
    recipe = next((each for each in names if each and (CONFIGS / "experiment" / f"{each}.yaml").is_file()), None)
    return list(words) if recipe is None else [f"experiment={recipe}", *words]


def report(task: Task, *, name: str) -> Iterator[str]:
    """Print what the data are like; yield what has to be seen to before training.

    Args:
        task: With the data and the configuration.
        name: Of the data, for the first line.
    """
    config, data = task.config, task.data
    splits = {split: list(paths) for split, paths in data.paths().items()}
    print(f"data={name}{': ' if config.data.get('root') else ''}{config.data.get('root') or ''}")
    if isinstance(data, DiscoveryData):
        _report_discovery(data)
    else:
        _report_image_text(data)
    yield from _trainable(task)
    every = [path for paths in splits.values() for path in paths]
    if not every:
        _line("images", "decoded in memory")
    else:
        decoded = decode_all(every, config.data.maximum_pixels)
        _report_sizes(decoded.sizes.values())
        yield from _unreadable(decoded.unreadable, len(every), skipped=config.data.on_error == "skip")
        yield from _duplicates(splits)
        if isinstance(data, ImageTextData):
            yield from _outside(data, decoded.sizes)
    if isinstance(data, ImageTextData):
        _report_captions(data, config)


def _report_image_text(data: ImageTextData) -> None:
    kind = {"identity": "identities", "class": "classes", "image": ""}[data.class_kind]
    splits = {"training": data.train, "validation": data.validation, "test": data.test}
    for split, records in splits.items():
        classes = f", {len({record.class_index for record in records}):,} {kind}" if kind else ""
        captions = sum(len(record.captions) for record in records)
        _line(split, f"{len(records):,} images{classes}, {captions:,} captions" if records else "none")
    if not data.validation:
        _line("", "without validation images, the weights of the last step are used")
    if kind:
        counts = Counter(record.class_index for record in data.train)
        _report_balance({data.class_names[index]: count for index, count in counts.items()}, kind)


def _report_discovery(data: DiscoveryData) -> None:
    train, old = data.train, data.num_old
    _line("classes", f"{old:,} old, {len(data.class_names) - old:,} new")
    groups = {
        "labelled": train.labelled,
        "unlabelled": ~train.labelled & (train.labels != UNKNOWN),
        "unknown": train.labels == UNKNOWN,
    }
    for what, chosen in groups.items():
        labels = train.labels[chosen]
        if what != "unknown":
            of = f"{int((labels < old).sum()):,} of old classes, {int((labels >= old).sum()):,} of new ones"
            _line(what, f"{len(labels):,} training images" + (f": {of}" if what == "unlabelled" else ""))
        elif len(labels):
            _line(what, f"{len(labels):,} training images of unknown classes: no figures for them, but predictions")
    _line("test", f"{len(data.test):,} images" if len(data.test) else "none")
    counts = Counter(train.labels[train.labels != UNKNOWN].tolist())
    _report_balance({data.class_names[index]: count for index, count in counts.items()}, "classes")


def _report_balance(counts: dict[str, int], kind: str) -> None:
    """How many training images each class has, which ones have a single one, and whether they are very uneven."""
    least, most = min(counts.values()), max(counts.values())
    each = str(least) if least == most else f"{least} to {most}"
    _line("balance", f"{each} training images in each of {len(counts):,} {kind}")
    if alone := sorted(name for name, count in counts.items() if count == 1):
        _line("", f"{len(alone):,} {kind} with one image: {_first(alone)}")
    if most >= UNEVEN * least:
        largest, smallest = max(counts, key=counts.get), min(counts, key=counts.get)
        _line("", f"uneven: {largest} has {most} images, {smallest} {least}")


def _trainable(task: Task) -> Iterator[str]:
    """What training would refuse to begin with."""
    config = task.config
    try:
        BatchPlan.of(config.data, images=len(task.data.train), world_size=1, accumulate=config.trainer.accumulate)
    except UserError as error:
        yield str(error)
    if config.get("discovery", {}).get("num_classes") == "estimate":
        return  # takes minutes
    try:
        task.complete_config()
    except UserError as error:
        yield str(error)


def _report_sizes(sizes: Sequence[tuple[int, int]]) -> None:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    if ordered:
        told = (f"{what} {width} × {height}" for what, (width, height) in (
            ("smallest", ordered[0]), ("median", ordered[len(ordered) // 2]), ("largest", ordered[-1])
        ))  # fmt: skip
        _line("sizes", ", ".join(told))


def _unreadable(reasons: dict[Path, str], count: int, *, skipped: bool) -> Iterator[str]:
    for reason in list(reasons.values())[: 4 * SHOWN]:
        _line("unreadable", reason)
    if not reasons:
        _line("decoding", "every image decodes")
    elif skipped:
        _line("", f"{len(reasons):,} of {count:,} images do not decode and are skipped (data.on_error=skip)")
    else:
        yield (
            f"{len(reasons):,} of {count:,} images do not decode: replace them, or train with data.on_error=skip"
        )


def _outside(data: ImageTextData, sizes: Mapping[Path, tuple[int, int]]) -> Iterator[str]:
    """Boxes that do not belong to their image; training would cut parts at its edge."""
    found = []
    for record in (*data.train, *data.validation, *data.test):
        width, height = sizes.get(record.path, (None, None))
        boxes = [region.box for region in record.regions] + ([record.box] if record.box else [])
        if width is not None:
            outside = (box for box in boxes if share_inside(box, height=height, width=width) < LEAST_INSIDE)
            found += [f"{record.path} of {width} × {height}: {shown(box)}" for box in outside]
    for line in found[:SHOWN]:
        _line("box", line)
    if found:
        yield f"{len(found):,} boxes (left, top, width, height) lie outside their images: give pixels of the images"


def _duplicates(splits: dict[str, list[Path]]) -> Iterator[str]:
    groups = equal_files([path for paths in splits.values() for path in paths])
    crossing = across_splits(groups, splits)
    copies = {path for _, path in crossing}
    within = [group for group in groups if not copies & set(group)]
    if not groups:
        _line("duplicates", "none")
    if within:
        first = " = ".join(map(str, within[0][:2]))
        _line("duplicates", f"{len(within):,} images lie in a split more than once, the first: {first}")
    for split, path in crossing[: 2 * SHOWN]:
        _line("in two", f"{split}: {path}")
    if crossing:
        yield (
            f"{len(copies):,} files are copies of images of another split, so figures would be too high: keep each in "
            "one split"
        )


def _report_captions(data: ImageTextData, config: DictConfig) -> None:
    records = (*data.train, *data.validation, *data.test)
    captions = [caption for record in records for caption in record.captions]
    context = config.encoder.text.get("context_length", 77)
    found = caption_lengths(captions, context_length=context)
    spread = f"{found.shortest} to {found.longest} tokens, median {found.median}"
    cut = f"{found.cut:,} of {found.measured:,} are longer than {context} and are cut" if found.cut else "none is cut"
    _line("captions", f"{spread}; {cut}")
    foreign = foreign_scripts(captions)
    if foreign.captions:
        _line(
            "languages",
            f"{foreign.captions:.0%} of the captions, {foreign.letters:.0%} of the letters are not in Latin script "
            f"({', '.join(foreign.scripts[:3])})",
        )
        _line("", "CLIP's vocabulary is English and spells them in bytes, several tokens a letter: translate them, or")
        _line("", "expect more of a text tower trained from scratch than of CLIP's")


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _line(what: str, text: str) -> None:
    print(f"  {what:<11} {text}")
