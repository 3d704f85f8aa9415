"""Text-based person search: CUHK-PEDES, ICFG-PEDES and RSTPReid in the layouts of their releases.

Li et al., "Person Search with Natural Language Description", CVPR 2017; Ding et al., "Semantically Self-Aligned
Network for Text-to-Image Part-aware Person Re-identification", 2021; Zhu et al., "DSSL: Deep Surroundings-person
Separation Learning for Text-based Person Retrieval", ACM MM 2021. All three provide a list of images with captions and
the identity of the person, and the images under `imgs/`. The class of an image is its identity.
"""

from __future__ import annotations

import logging
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meru.data.folders import FileFinder, find_folder, first_repeated, inner_path
from meru.data.records import ImageRecord, ImageTextData
from meru.data.texts import read_json
from meru.errors import UserError

SPLITS = ("train", "val", "test")
OTHER_NAMES = {"validation": "val", "valid": "val", "training": "train", "testing": "test"}
WITHOUT_SPLITS = "caption_all.json"
CONVERTED = tuple(f"{split}_reid.json" for split in SPLITS)  # TBPS-CLIP's, with back-translations

log = logging.getLogger("meru")


@dataclass(frozen=True)
class Layout:
    """File names of a release, and how to obtain it.

    Attributes:
        folder: Name of the data set's folder inside `data.root`.
        annotations: File names of its annotation in the spellings in use.
        access: How to obtain it.
    """

    folder: str
    annotations: tuple[str, ...]
    access: str


LAYOUTS = {
    "cuhk_pedes": Layout(
        "CUHK-PEDES",
        ("reid_raw.json", "CUHK-PEDES.json"),
        "its authors provide it for academic use only, on request by e-mail from a university address, see "
        "https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    ),
    "icfg_pedes": Layout(
        "ICFG-PEDES",
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        "its authors provide it on request by e-mail, see https://github.com/zifyloo/SSAN",
    ),
    "rstpreid": Layout(
        "RSTPReid",
        ("data_captions.json",),
        "its authors' page links to the archive: https://github.com/NjtechCVLab/RSTPReid-Dataset",
    ),
}


def load_person_search(*, root: str | Path, layout: str) -> ImageTextData:
    """Read a person search data set, without decoding any image.

    Captions are cleaned as in TBPS-CLIP: lower case, without the marks . ! " ( ) * # : ; ~.

    Args:
        root: The folder with `imgs/` and the annotation, or the folder that contains it under the release's own name.
        layout: `cuhk_pedes`, `icfg_pedes` or `rstpreid`; if `{train,val,test}_reid.json` exist, they are read instead.

    Returns:
        Identities numbered from 0 without gaps, in the order of their splits; `class_names` holds the annotation's own
        numbers. `validation` is empty if the release has none (ICFG-PEDES), and `test`, with a warning, if a copy has
        none. Captions without a word, of which the releases have some, are left out and counted, and so are images
        that have no other caption.

    Raises:
        UserError: for a missing file, a malformed entry (the message gives its position), an image outside the folder
            or listed twice, or an identity in two splits.
    """
    folder, annotations = find_annotations(root, layout)
    splits = read_splits(annotations)
    paths = find_images(folder, splits, layout=layout)
    images_of = Counter(entry.identity for split in SPLITS for entry in splits[split])
    if alone := sum(count == 1 for count in images_of.values()):
        log.info("%d of %d identities have a single image", alone, len(images_of))
    number = {identity: index for index, identity in enumerate(images_of)}
    records = {
        split: tuple(
            ImageRecord(
                path=paths[entry.file],
                class_index=number[entry.identity],
                captions=entry.captions,
                back_translations=entry.back_translations,
            )
            for entry in entries
        )
        for split, entries in splits.items()
    }
    return ImageTextData(
        tuple(map(str, number)), records["train"], records["val"], records["test"], class_kind="identity"
    )


@dataclass(frozen=True)
class Entry:
    """One image of an annotation: its split, identity, path inside `imgs/`, and captions, cleaned.

    `wordless` counts the captions that had no word and were left out.
    """

    split: str
    identity: int
    file: str
    captions: tuple[str, ...]
    back_translations: tuple[str, ...]
    wordless: int = 0


def find_annotations(root: str | Path, layout: str) -> tuple[Path, list[Path]]:
    """The folder of a data set, and the file or files of its annotation.

    Raises:
        UserError: if there is none; the message says where it was searched for and how to obtain the data.
    """
    if layout not in LAYOUTS:
        raise UserError(f"data.load.layout={layout}: choose one of {', '.join(LAYOUTS)}")
    wanted = LAYOUTS[layout]
    folder = find_folder(
        root,
        marker=(*wanted.annotations, CONVERTED[0], WITHOUT_SPLITS),
        inside=(wanted.folder,),
        what=wanted.folder,
        missing=f"{wanted.annotations[0]}, nor both {CONVERTED[0]} and {CONVERTED[2]}",
        advice=f"{wanted.access}; choose data=pedestrians, which is synthetic",
    )
    converted = [folder / name for name in CONVERTED if (folder / name).is_file()]
    if {path.name for path in converted} >= {CONVERTED[0], CONVERTED[2]}:
        return folder, converted
    for name in wanted.annotations:
        if (folder / name).is_file():
            return folder, [folder / name]
    if (folder / WITHOUT_SPLITS).is_file():
        entries = _listed(folder / WITHOUT_SPLITS)
        if isinstance(entries[0], dict) and "split" in entries[0]:
            return folder, [folder / WITHOUT_SPLITS]
        raise UserError(
            f"{folder / WITHOUT_SPLITS} does not assign images to training, validation and test: put "
            f"{wanted.annotations[0]}, which does, beside it; it comes from the same authors ({wanted.access})"
        )
    raise UserError(
        f"no {wanted.folder}: {folder} has only {CONVERTED[0]}, and also needs {CONVERTED[2]}, or "
        f"{wanted.annotations[0]}; {wanted.access}"
    )


def read_splits(annotations: list[Path]) -> dict[str, list[Entry]]:
    """Read the files that `find_annotations` found, by split, without searching for images.

    Raises:
        UserError: for a malformed entry, a training split without images, an identity in two splits, or an image
            listed twice.
    """
    entries = [entry for path in annotations for entry in read_annotation(path)]
    splits = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    _check_splits(splits, annotations)
    return splits


def find_images(folder: Path, splits: dict[str, list[Entry]], *, layout: str) -> dict[str, Path]:
    """The file of every `Entry.file`.

    Raises:
        UserError: if images are missing (the message says how many, and how to obtain them), or two entries name the
            same image.
    """
    images = folder / "imgs"
    every = [entry for entries in splits.values() for entry in entries]
    files = [entry.file for entry in every]
    found, absent = FileFinder(images).find_all(files)
    if absent:
        raise UserError(
            f"{images / absent[0]} is listed in the annotation but absent ({len(absent)} of {len(files)} images "
            f"are): copy the images of {LAYOUTS[layout].folder} to {images}; {LAYOUTS[layout].access}"
        )
    _refuse_twice(found, every, f"the annotation in {folder}")
    return dict(zip(files, found, strict=True))


def read_annotation(path: Path) -> list[Entry]:
    """The entries of an annotation, checked.

    Raises:
        UserError: for a malformed entry; the message gives the file, the position of the entry and what is wrong.
    """
    listed = _listed(path)
    of_file = path.name.removesuffix("_reid.json") if path.name in CONVERTED else None
    entries = [_entry(raw, split=of_file, where=f"{path}, entry {place}") for place, raw in enumerate(listed, start=1)]
    wordless = sum(entry.wordless for entry in entries)
    kept = [entry for entry in entries if entry.captions]
    if wordless:
        log.warning(
            "%s: %d captions without a word are left out, and %d images that have no other", path, wordless,
            len(entries) - len(kept),
        )  # fmt: skip
    return kept


def _listed(path: Path) -> list:
    """The list of images in an annotation: the whole file, or the value of its only key."""
    listed = read_json(path)
    if isinstance(listed, dict):
        lists = [value for value in listed.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        if set(listed) <= {*SPLITS, *OTHER_NAMES} and all(isinstance(value, list) for value in listed.values()):
            listed = [
                {"split": split, **entry} if isinstance(entry, dict) else entry
                for split, entries in listed.items()
                for entry in entries
            ]
        elif len(lists) == 1:
            listed = lists[0]
    if not isinstance(listed, list) or not listed:
        raise UserError(f"annotation {path} is not a list of images: restore the file")
    return listed


def clean_caption(caption: str) -> str:
    """The caption in lower case, without punctuation that carries no meaning, with single spaces between words."""
    caption = caption.encode(errors="ignore").decode()  # drops lone surrogates, which JSON can contain
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", caption.lower()).split())


def _entry(raw: object, *, split: str | None, where: str) -> Entry:
    """Check one entry; `split` is that of the file if the annotation has one file per split."""

    def field(name: str, kind: type):
        if name not in raw:
            raise UserError(f"{where} has no field {name}: restore the annotation")
        if type(raw[name]) is not kind:
            kinds = {int: "a whole number", str: "text", list: "a list"}
            found = reprlib.repr(raw[name])
            raise UserError(f"{where}: {name} is {found}, it must be {kinds[kind]}; restore the annotation")
        return raw[name]

    if not isinstance(raw, dict):
        raise UserError(f"{where} is {reprlib.repr(raw)}, not an object with fields: restore the annotation")
    split = split or field("split", str)
    split = OTHER_NAMES.get(split.lower(), split.lower())
    if split not in SPLITS:
        raise UserError(f"{where}: split is {split!r}, it must be one of {', '.join(SPLITS)}")
    listed = field("img_path" if "img_path" in raw and "file_path" not in raw else "file_path", str)
    file = inner_path(listed)
    file = file and file.removeprefix("imgs/")
    if not file:
        raise UserError(f"{where}: the image path {listed!r} is outside the folder imgs; give a path inside it")
    captions = _captions(raw, field, "captions", where)
    translated = ()
    if raw.get("captions_bt") is not None:
        translated = _captions(raw, field, "captions_bt", where)
        if len(translated) != len(captions):
            raise UserError(
                f"{where}: {len(captions)} captions but {len(translated)} back-translations in captions_bt; "
                "give one for each, or leave the field out"
            )
        # A translation without a word changes nothing.
        translated = tuple(back or caption for back, caption in zip(translated, captions, strict=True) if caption)
    kept = tuple(caption for caption in captions if caption)
    return Entry(split, _identity(raw, field), file, kept, translated, len(captions) - len(kept))


def _identity(raw: dict, field: Callable) -> int:
    """The identity: a whole number, also if written as text."""
    if isinstance(raw.get("id"), str) and re.fullmatch(r"\s*\d{1,18}\s*", raw["id"], re.ASCII):
        return int(raw["id"])
    return field("id", int)


def _captions(raw: dict, field: Callable, name: str, where: str) -> tuple[str, ...]:
    """Cleaned captions; those without a word become empty."""
    listed = [raw[name]] if isinstance(raw.get(name), str) else field(name, list)
    if not listed or not all(isinstance(caption, str) for caption in listed):
        raise UserError(f"{where}: {name} must be a list of sentences, not {reprlib.repr(listed)}; restore the file")
    return tuple(map(clean_caption, listed))


def _check_splits(splits: dict[str, list[Entry]], annotations: list[Path]) -> None:
    names = " and ".join(path.name for path in annotations)
    every = [entry for entries in splits.values() for entry in entries]
    if not splits["train"]:
        raise UserError(f"{names} in {annotations[0].parent}: no image is in the split train; restore the annotation")
    if not splits["test"]:
        log.warning("%s in %s: no image is in the split test, so no test metrics", names, annotations[0].parent)
    if not splits["val"]:
        log.info("%s: no image is in the split val, so the last epoch is used", names)
    _refuse_twice([entry.file for entry in every], every, names)
    of_identity: dict[int, str] = {}
    for split, entries in splits.items():
        for entry in entries:
            if of_identity.setdefault(entry.identity, split) != split:
                raise UserError(
                    f"{names}: identity {entry.identity} is in {of_identity[entry.identity]} and in {split} "
                    f"({entry.file}); a person may be in only one split"
                )


def _refuse_twice(files: Sequence[object], entries: Sequence[Entry], where: str) -> None:
    if repeated := first_repeated(files):
        first, second = (entries[position] for position in repeated)
        told = (f"{each.file} ({each.split}, identity {each.identity})" for each in (first, second))
        raise UserError(f"{where}: {' and '.join(told)} are the same image; keep one")
