"""CUB-200-2011 with captions.

Images: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset" (2011). Ten captions per image: Reed et al.,
"Learning Deep Representations of Fine-Grained Visual Descriptions" (CVPR 2016).

Any folder in the same layout is read: a subset of the classes, other class ids, gaps between the image ids.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from meru.data.records import ImageRecord, ImageTextData, missing_files
from meru.errors import UserError
from meru.files import user_path

DOWNLOAD_PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
# A class attribute goes into the prompts when more than this percentage of the annotators saw it.
CERTAIN_PERCENTAGE = 50.0
PROMPTS_PER_CLASS = 10

log = logging.getLogger("meru")


def load_cub(
    *,
    root: str | Path,
    validation_fraction: float = 0.1,
    seed: int = 0,
    captions: str | Path | None = None,
) -> ImageTextData:
    """Read a folder in the layout of CUB_200_2011; no picture is decoded.

    Where there are no captions, prompts are made from the class names and the class attributes.

    Args:
        root: The folder that holds `images.txt`, or its parent.
        validation_fraction: Share of every class's training images, in [0, 1), set aside for validation:
            at least one image of a class that has two.
        seed: Decides which images those are.
        captions: Folder with `<class folder>/<image>.txt`; by default `text_c10` in `root` or beside it.

    Raises:
        UserError: a missing folder, file or image, a malformed line, an empty or undecodable caption file.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction={validation_fraction}: it must be at least 0 and below 1")
    folder = find_cub(root)
    files, labels, in_training, classes = _read_index(folder)
    _check_images_exist(folder / "images", files.values())
    present = sorted({labels[image_id] for image_id in files})
    class_index = {class_id: position for position, class_id in enumerate(present)}
    class_names = {class_id: _plain_words(classes[class_id]) for class_id in present}

    attributes = class_attributes(folder)
    caption_folder = user_path(captions) if captions is not None else find_captions(folder)
    if caption_folder is not None:
        texts = {image_id: read_captions(caption_folder, name) for image_id, name in files.items()}
    else:
        log.warning("no captions (text_c10) in or beside %s: prompts from class names and attributes", folder)
        prompts = {key: class_prompts(name, attributes.get(key, {})) for key, name in class_names.items()}
        texts = {image_id: prompts[labels[image_id]] for image_id in files}

    boxes, parts = _boxes(folder), _visible_parts(folder)
    records = {
        image_id: ImageRecord(
            path=folder / "images" / name,
            class_index=class_index[labels[image_id]],
            captions=texts[image_id],
            box=boxes.get(image_id),
            parts=parts.get(image_id, {}),
            colours=attributes.get(labels[image_id], {}),
        )
        for image_id, name in files.items()
    }
    train, validation = _cut_validation(
        [record for image_id, record in records.items() if in_training[image_id]],
        fraction=validation_fraction,
        seed=seed,
    )
    test = tuple(record for image_id, record in records.items() if not in_training[image_id])
    return ImageTextData(tuple(class_names.values()), train, validation, test)


def find_cub(root: str | Path) -> Path:
    """The folder that holds `images.txt`: `root` itself or `root/CUB_200_2011`."""
    root = user_path(root)
    for folder in (root, root / "CUB_200_2011"):
        if (folder / "images.txt").is_file():
            return folder
    found = "holds no images.txt" if root.is_dir() else "is no folder"
    raise UserError(
        f"no CUB data: {root} {found}; download CUB-200-2011 from {DOWNLOAD_PAGE} (or by "
        "`python scripts/prepare_data.py cub --download`), or set data.root=<folder> to a copy of it, "
        "or choose data=birds, which is drawn by code"
    )


def find_captions(folder: Path) -> Path | None:
    """The folder of captions inside a CUB folder or beside it, None where there is none."""
    return next((path for path in (folder / "text_c10", folder.parent / "text_c10") if path.is_dir()), None)


def read_captions(caption_folder: Path, image: str) -> tuple[str, ...]:
    """The captions of `image` (`<class folder>/<file>`), the lines of its text file without blank ones."""
    path = f"{caption_folder}/{os.path.splitext(image)[0]}.txt"
    # Reed et al.'s files carry the replacement character where their own conversion lost a letter.
    lines = (line.strip() for line in _read_text(path).replace("\ufffd", " ").split("\n"))
    captions = tuple(line for line in lines if line)
    if not captions:
        raise UserError(f"caption file {path} is empty: write one caption a line, or restore the file")
    return captions


def class_attributes(folder: Path) -> dict[int, dict[str, str]]:
    """Class id → part → the colour that most annotators saw there, for the parts where most of them agree.

    Empty where the folder has no attributes.
    """
    percentages = folder / "attributes" / "class_attribute_labels_continuous.txt"
    # The official archive puts the list of attributes beside the folder, not into it.
    listings = (folder / "attributes" / "attributes.txt", folder.parent / "attributes.txt")
    listing = next((path for path in listings if path.is_file()), None)
    if listing is None or not percentages.is_file():
        return {}
    names = list(_table(listing, "<attribute id> has_<what>::<value>", int, str).values())
    rows = list(_rows(percentages, "<a percentage for each attribute>", *[float] * len(names)))
    classes = _table(folder / "classes.txt", "<class id> <class folder>", int, str)
    # One row a class of classes.txt; a subset may have kept the rows of all 200 classes.
    row_of = {class_id: position for position, class_id in enumerate(classes)}
    if len(rows) != len(classes):
        row_of = {class_id: class_id - 1 for class_id in classes if 1 <= class_id <= len(rows)}
    colours = [re.fullmatch(r"has_(.+)_color::(.+)", name) for name in names]
    attributes: dict[int, dict[str, str]] = {}
    for class_id, row in row_of.items():
        certain = [pair for pair in zip(rows[row], colours, strict=True) if pair[0] > CERTAIN_PERCENTAGE]
        # The surest colour of a part comes first, and only that one is kept.
        attributes[class_id] = {}
        for _, match in sorted(certain, key=lambda pair: -pair[0]):
            if match:
                part, colour = (words.replace("_", " ") for words in match.groups())
                attributes[class_id].setdefault(part, colour)
    return attributes


def class_prompts(name: str, attributes: dict[str, str]) -> tuple[str, ...]:
    """Sentences for a class without captions, from its name to what it looks like.

    Args:
        name: Plain words, "Black footed Albatross".
        attributes: Part or `primary` → colour, such as `{"primary": "black", "upper tail": "white"}`.
    """
    named = _with_article(name)
    prompts = [named, f"a photo of {named}", f"this bird is {named}", f"{named}, a kind of bird"]
    bird = _with_article(f"{attributes['primary']} bird") if "primary" in attributes else "a bird"
    looks = [_with_article(f"{colour} {part}") for part, colour in attributes.items() if part != "primary"]
    for first, second in zip(looks[::2], looks[1::2], strict=False):
        prompts += [f"{named} with {first} and {second}", f"{bird} with {first} and {second}"]
    return tuple(prompts[:PROMPTS_PER_CLASS])


def _read_index(folder: Path) -> tuple[dict[int, str], dict[int, int], dict[int, bool], dict[int, str]]:
    """Image id → file, class id and "is for training"; class id → class folder. Complete for every image."""
    files = _table(folder / "images.txt", "<image id> <class folder>/<file>", int, str)
    labels = _table(folder / "image_class_labels.txt", "<image id> <class id>", int, int)
    in_training = _table(folder / "train_test_split.txt", "<image id> <1 train, 0 test>", int, _zero_or_one)
    classes = _table(folder / "classes.txt", "<class id> <class folder>", int, str)
    for name, table in (("image_class_labels.txt", labels), ("train_test_split.txt", in_training)):
        if missing := files.keys() - table.keys():
            raise UserError(
                f"{folder / name} lacks {len(missing)} of the images of images.txt, first image id "
                f"{min(missing)}: restore the file from {DOWNLOAD_PAGE}"
            )
    if unknown := {labels[image_id] for image_id in files} - classes.keys():
        raise UserError(
            f"{folder / 'classes.txt'} does not name class id {min(unknown)}, which image_class_labels.txt "
            f"uses: restore the file from {DOWNLOAD_PAGE}"
        )
    if not any(in_training[image_id] for image_id in files):
        raise UserError(
            f"{folder} has no training image (images.txt lists {len(files)}, train_test_split.txt marks none "
            f"of them with 1): restore both files from {DOWNLOAD_PAGE}"
        )
    return files, labels, in_training, classes


def _zero_or_one(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _with_article(words: str) -> str:
    if words.endswith("parts"):
        return words
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _plain_words(class_folder: str) -> str:
    """`001.Black_footed_Albatross` → "Black footed Albatross"."""
    return re.sub(r"^\d+\.", "", class_folder).replace("_", " ").strip()


def _cut_validation(
    records: list[ImageRecord], *, fraction: float, seed: int
) -> tuple[tuple[ImageRecord, ...], tuple[ImageRecord, ...]]:
    """Training and validation records, both in the order of `records`.

    Images are ranked within their class by a hash of seed and file: a subset of the classes, or another order
    of `images.txt`, puts every image on the same side as the full copy does.
    """

    def rank(record: ImageRecord) -> bytes:
        return hashlib.sha256(f"{seed}/{record.path.parent.name}/{record.path.name}".encode()).digest()

    by_class: dict[int, list[ImageRecord]] = defaultdict(list)
    for record in records:
        by_class[record.class_index].append(record)
    chosen: set[Path] = set()
    for members in by_class.values():
        count = min(max(1, round(fraction * len(members))), len(members) - 1) if fraction > 0 else 0
        chosen.update(record.path for record in sorted(members, key=rank)[:count])
    train = tuple(record for record in records if record.path not in chosen)
    return train, tuple(record for record in records if record.path in chosen)


def _check_images_exist(image_folder: Path, names: Collection[str]) -> None:
    if absent := missing_files(image_folder, names):
        raise UserError(
            f"{image_folder / absent[0]} is listed in images.txt but absent ({len(absent)} of {len(names)} "
            f"images are): unpack the archive of {DOWNLOAD_PAGE} again"
        )


def _boxes(folder: Path) -> dict[int, tuple[float, float, float, float]]:
    path = folder / "bounding_boxes.txt"
    if not path.is_file():
        return {}
    return {
        image_id: (x, y, width, height)
        for image_id, x, y, width, height in _rows(
            path, "<image id> <x> <y> <width> <height>", int, float, float, float, float
        )
    }


def _visible_parts(folder: Path) -> dict[int, dict[str, tuple[float, float]]]:
    locations = folder / "parts" / "part_locs.txt"
    if not locations.is_file():
        return {}
    names = _table(folder / "parts" / "parts.txt", "<part id> <name>", int, str)
    parts: dict[int, dict[str, tuple[float, float]]] = defaultdict(dict)
    for image_id, part_id, x, y, visible in _rows(
        locations, "<image id> <part id> <x> <y> <visible>", int, int, float, float, int
    ):
        if part_id not in names:
            raise UserError(f"{locations} uses part id {part_id}, which parts.txt beside it does not name")
        if visible:
            parts[image_id][names[part_id]] = (x, y)
    return parts


def _table(path: Path, layout: str, *types: Callable) -> dict:
    """`<id> <value>` lines as a dict; an id that comes twice is an error."""
    table = {}
    for key, value in _rows(path, layout, *types):
        if key in table:
            raise UserError(f"{path} has two lines for id {key}: restore the file from {DOWNLOAD_PAGE}")
        table[key] = value
    return table


def _rows(path: Path, layout: str, *types: Callable) -> Iterator[tuple]:
    """The fields of every line, converted; the last field takes the rest of its line."""
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.strip()
        if not line:
            continue
        try:
            yield tuple(
                convert(field)
                for convert, field in zip(types, line.split(maxsplit=len(types) - 1), strict=True)
            )
        except (ValueError, KeyError):
            found = line if len(line) <= 60 else f"{line[:60]}…"
            raise UserError(
                f"{path}, line {number}: expected '{layout}', found '{found}'; "
                f"restore the file from {DOWNLOAD_PAGE}"
            ) from None


def _read_text(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}): convert it to UTF-8, or restore the file"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): the data set needs this file") from None
