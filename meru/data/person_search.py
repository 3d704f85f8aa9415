"""Text-based person search: CUHK-PEDES, ICFG-PEDES and RSTPReid in the layouts of their releases.

Li et al., "Person Search with Natural Language Description", CVPR 2017; Ding et al., "Semantically Self-Aligned
Network for Text-to-Image Part-aware Person Re-identification", 2021; Zhu et al., "DSSL: Deep Surroundings-person
Separation Learning for Text-based Person Retrieval", ACM MM 2021. All three give a list of images with captions and
the identity of the person, and pictures under `imgs/`. The class of an image is its identity.
"""

from __future__ import annotations

import json
import logging
import re
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from meru.data.records import ImageRecord, ImageTextData, missing_files
from meru.errors import UserError
from meru.files import user_path

SPLITS = ("train", "val", "test")
CONVERTED = tuple(f"{split}_reid.json" for split in SPLITS)  # TBPS-CLIP's, with back-translations

log = logging.getLogger("meru")


@dataclass(frozen=True)
class Layout:
    """Where a release keeps what.

    Attributes:
        folder: Its own name, as a folder inside `data.root`.
        annotations: File names of its annotation, as it is spelt in one place or another.
        access: How to get it.
    """

    folder: str
    annotations: tuple[str, ...]
    access: str


LAYOUTS = {
    "cuhk_pedes": Layout(
        "CUHK-PEDES",
        ("reid_raw.json",),
        "its authors give it for academic use only, on request by mail from a university address, see "
        "https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    ),
    "icfg_pedes": Layout(
        "ICFG-PEDES",
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        "its authors give it on request by mail, see https://github.com/zifyloo/SSAN",
    ),
    "rstpreid": Layout(
        "RSTPReid",
        ("data_captions.json",),
        "its authors' page links to the archive: https://github.com/NjtechCVLab/RSTPReid-Dataset",
    ),
}


def load_person_search(*, root: str | Path, layout: str) -> ImageTextData:
    """Read a data set of persons; no picture is decoded.

    Captions are cleaned as in TBPS-CLIP: lower case, without the marks . ! " ( ) * # : ; ~.

    Args:
        root: The folder with `imgs/` and the annotation, or the one that holds it under the release's own name.
        layout: `cuhk_pedes`, `icfg_pedes` or `rstpreid`; where `{train,val,test}_reid.json` are, they are read instead.

    Returns:
        Identities numbered from 0 without gaps, in the order of their splits, `class_names` being the annotation's own
        numbers; `validation` is empty where the release has none (ICFG-PEDES).

    Raises:
        UserError: for a missing file, a malformed entry (named by its place), an image outside the folder, an empty
            caption, or an identity in two splits.
    """
    folder, annotations = find_annotations(root, layout)
    splits = read_splits(annotations)
    check_images(folder, splits, layout=layout)
    pictures = Counter(entry.identity for split in SPLITS for entry in splits[split])
    if alone := sum(count == 1 for count in pictures.values()):
        log.info("%d of %d identities have a single image", alone, len(pictures))
    number = {identity: index for index, identity in enumerate(pictures)}
    records = {
        split: tuple(
            ImageRecord(
                path=folder / "imgs" / entry.file,
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
    """One image of an annotation: its split, identity, path inside `imgs/`, and captions, cleaned."""

    split: str
    identity: int
    file: str
    captions: tuple[str, ...]
    back_translations: tuple[str, ...]


def find_annotations(root: str | Path, layout: str) -> tuple[Path, list[Path]]:
    """The folder of a data set, and the file or files of its annotation.

    Raises:
        UserError: if there is none; it says where it was looked for and how to get the data.
    """
    if layout not in LAYOUTS:
        raise UserError(f"data.load.layout={layout}: choose one of {', '.join(LAYOUTS)}")
    root, wanted = user_path(root), LAYOUTS[layout]
    for folder in (root, root / wanted.folder):
        converted = [folder / name for name in CONVERTED if (folder / name).is_file()]
        if {path.name for path in converted} >= {CONVERTED[0], CONVERTED[2]}:
            return folder, converted
        for name in wanted.annotations:
            if (folder / name).is_file():
                return folder, [folder / name]
    found = f"holds no {wanted.annotations[0]}, nor both {CONVERTED[0]} and {CONVERTED[2]}"
    if not root.is_dir():
        found = "is no folder"
    raise UserError(
        f"no {wanted.folder}: {root} {found}; {wanted.access}; set data.root=<folder> to a copy of it, or choose "
        "data=pedestrians, which is drawn by code"
    )


def read_splits(annotations: list[Path]) -> dict[str, list[Entry]]:
    """What `find_annotations` found, by split; no picture is looked for.

    Raises:
        UserError: for a malformed entry, a split without images but `val`, or an identity in two splits.
    """
    entries = [entry for path in annotations for entry in read_annotation(path)]
    splits = {split: [entry for entry in entries if entry.split == split] for split in SPLITS}
    _check_splits(splits, annotations)
    return splits


def check_images(folder: Path, splits: dict[str, list[Entry]], *, layout: str) -> None:
    """That every image of the splits is there.

    Raises:
        UserError: one is not; it says how many, and how to get them.
    """
    images = folder / "imgs"
    files = [entry.file for entries in splits.values() for entry in entries]
    if absent := missing_files(images, files):
        raise UserError(
            f"{images / absent[0]} is listed in the annotation but absent ({len(absent)} of {len(files)} images "
            f"are): copy the pictures of {LAYOUTS[layout].folder} to {images}; {LAYOUTS[layout].access}"
        )


def read_annotation(path: Path) -> list[Entry]:
    """The entries of an annotation, checked.

    Raises:
        UserError: naming the file, the place of the entry in it, and what is wrong there.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"annotation {path} cannot be read as JSON ({error}): restore the file") from None
    if not isinstance(listed, list) or not listed:
        raise UserError(f"annotation {path} is no list of images: restore the file")
    of_file = path.name.removesuffix("_reid.json") if path.name in CONVERTED else None
    return [_entry(raw, split=of_file, where=f"{path}, entry {place}") for place, raw in enumerate(listed, start=1)]


def clean_caption(caption: str) -> str:
    """Lower case, without marks that stand for nothing, one blank between words."""
    return " ".join(re.sub(r'[.!"()*#:;~]', " ", caption.lower()).split())


def _entry(raw: object, *, split: str | None, where: str) -> Entry:
    """`split`: of the whole file, where the annotation is a file a split."""

    def field(name: str, kind: type):
        if name not in raw:
            raise UserError(f"{where} has no field {name}: restore the annotation")
        if type(raw[name]) is not kind:
            kinds = {int: "a whole number", str: "text", list: "a list"}
            found = reprlib.repr(raw[name])
            raise UserError(f"{where}: {name} is {found}, it must be {kinds[kind]}; restore the annotation")
        return raw[name]

    if not isinstance(raw, dict):
        raise UserError(f"{where} is {reprlib.repr(raw)}, no object with fields: restore the annotation")
    split = split or field("split", str)
    if split not in SPLITS:
        raise UserError(f"{where}: split is {split!r}, it must be one of {', '.join(SPLITS)}")
    file = field("img_path" if "img_path" in raw and "file_path" not in raw else "file_path", str)
    file = file.replace("\\", "/").removeprefix("imgs/")
    if not file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts or ":" in file.split("/")[0]:
        raise UserError(f"{where}: the image path {file!r} leaves the folder imgs; give a path inside it")
    captions = _captions(field("captions", list), f"{where}: captions")
    translated = ()
    if raw.get("captions_bt") is not None:
        translated = _captions(field("captions_bt", list), f"{where}: captions_bt")
        if len(translated) != len(captions):
            raise UserError(
                f"{where}: {len(captions)} captions but {len(translated)} back-translations in captions_bt; "
                "give one for each, or leave the field out"
            )
    return Entry(split, field("id", int), file, captions, translated)


def _captions(listed: list, where: str) -> tuple[str, ...]:
    if not listed or not all(isinstance(caption, str) for caption in listed):
        raise UserError(f"{where} must be a list of sentences, at least one, and is {reprlib.repr(listed)}")
    cleaned = tuple(map(clean_caption, listed))
    if "" in cleaned:
        raise UserError(f"{where}: sentence {cleaned.index('') + 1} has no word; write one")
    return cleaned


def _check_splits(splits: dict[str, list[Entry]], annotations: list[Path]) -> None:
    names = " and ".join(path.name for path in annotations)
    for split in ("train", "test"):
        if not splits[split]:
            raise UserError(f"{names} in {annotations[0].parent}: no image is in {split}; restore the annotation")
    of_identity: dict[int, str] = {}
    for split, entries in splits.items():
        for entry in entries:
            if of_identity.setdefault(entry.identity, split) != split:
                raise UserError(
                    f"{names}: identity {entry.identity} is in {of_identity[entry.identity]} and in {split} "
                    f"({entry.file}); a person may be in one split only"
                )
