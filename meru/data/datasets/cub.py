"""CUB-200-2011 with captions.

Images: Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset" (2011). Ten captions per image: Reed et al.,
"Learning Deep Representations of Fine-Grained Visual Descriptions" (CVPR 2016).

Any folder in this layout can be read, also with a subset of the classes, other class ids or gaps between image ids.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath

from meru.data.datasets.cub_files import Index, read_boxes, read_index, read_parts, read_rows, read_table
from meru.data.folders import FileFinder, find_folder, visible_folders
from meru.data.records import ImageRecord, ImageTextData
from meru.data.texts import read_text
from meru.errors import UserError
from meru.files import user_path

# A class attribute goes into the prompts when more than this percentage of the annotators saw it.
CERTAIN_PERCENTAGE = 50.0
PROMPTS_PER_CLASS = 10
DOWNLOAD_PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"

log = logging.getLogger("meru")


def load_cub(
    *,
    root: str | Path,
    validation_fraction: float = 0.1,
    seed: int = 0,
    captions: str | Path | None = None,
) -> ImageTextData:
    """Read a folder in the layout of CUB_200_2011, without decoding any image.

    Without captions, prompts are made from the class names and the class attributes.

    Args:
        root: The folder that holds `images.txt`, or its parent.
        validation_fraction: Share of every class's training images, in [0, 1), set aside for validation;
            at least one image of a class that has two.
        seed: Chooses those images.
        captions: Folder with `<class folder>/<image>.txt`; by default `text_c10` in `root` or beside it.

    Returns:
        The three splits. `test` is empty if all images are for training; an empty `test` or `validation` is logged as a
        warning. Boxes and parts are in pixels of the image as viewers show it.

    Raises:
        UserError: for a missing folder, file or image, a malformed line, an empty or undecodable caption file, or lists
            that contradict themselves or each other.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction={validation_fraction}: it must be at least 0 and below 1")
    folder = find_cub(root)
    index = read_index(folder)
    present = sorted({index.labels[image_id] for image_id in index.files})
    class_index = {class_id: position for position, class_id in enumerate(present)}
    class_names = {class_id: _plain_words(index.classes[class_id]) for class_id in present}
    attributes = class_attributes(folder)
    texts = _texts(folder, captions, index, class_names, attributes)
    boxes, parts = read_boxes(folder, index.files), read_parts(folder, index.files)
    records = {
        image_id: ImageRecord(
            path=path,
            class_index=class_index[index.labels[image_id]],
            captions=texts[image_id],
            box=boxes.get(image_id),
            parts=parts.get(image_id, {}),
            colours=attributes.get(index.labels[image_id], {}),
        )
        for image_id, path in index.paths.items()
    }
    in_training = {image_id: record for image_id, record in records.items() if index.in_training[image_id]}
    chosen = _validation_images(in_training, index.files, fraction=validation_fraction, seed=seed)
    train = tuple(record for image_id, record in in_training.items() if image_id not in chosen)
    validation = tuple(record for image_id, record in in_training.items() if image_id in chosen)
    test = tuple(record for image_id, record in records.items() if not index.in_training[image_id])
    if not test:
        log.warning("%s has no test image (train_test_split.txt marks all with 1): no test metrics", folder)
    if validation_fraction and not validation:
        log.warning("%s: no class has two training images, so there is no validation split", folder)
    return ImageTextData(tuple(class_names.values()), train, validation, test)


def _texts(
    folder: Path,
    captions: str | Path | None,
    index: Index,
    class_names: dict[int, str],
    attributes: dict[int, dict[str, str]],
) -> dict[int, tuple[str, ...]]:
    """Image id → captions, or the prompts of its class if there are no captions."""
    caption_folder = find_captions(folder) if captions is None else _named_captions(captions)
    if caption_folder is not None:
        finder = FileFinder(caption_folder)
        return {image_id: read_captions(finder, name) for image_id, name in index.files.items()}
    log.warning("no captions (text_c10) in or beside %s: prompts from class names and attributes", folder)
    prompts = {key: class_prompts(name, attributes.get(key, {})) for key, name in class_names.items()}
    return {image_id: prompts[index.labels[image_id]] for image_id in index.files}


def find_cub(root: str | Path) -> Path:
    """The folder that holds `images.txt`: `root` itself, `root/CUB_200_2011`, or the only such folder below."""
    return find_folder(
        root,
        marker="images.txt",
        inside=("CUB_200_2011",),
        what="CUB data",
        advice=f"download CUB-200-2011 from {DOWNLOAD_PAGE} (or by `python scripts/prepare_data.py cub --download`), "
        "or choose data=birds, which is synthetic",
    )


def find_captions(folder: Path) -> Path | None:
    """The folder of captions inside a CUB folder or beside it, or None.

    It is called `text_c10`, as in the captions' archive, or `text`, as in copies made for text-to-image generation.
    """
    for place in (folder, folder.parent):
        for name in ("text_c10", "cvpr2016_cub/text_c10", "birds/text_c10", "text"):
            # Other folders may be called `text`: one with captions has a folder named like a class of the images.
            if (place / name).is_dir() and (name != "text" or _has_classes(place / name, folder)):
                return _innermost(place / name)
    return None


def read_captions(finder: FileFinder, image: str) -> tuple[str, ...]:
    """The captions of `image` (`<class folder>/<file>`): the non-blank lines of its text file.

    Args:
        finder: Searches the folder of captions.
    """
    name = f"{os.path.splitext(image)[0]}.txt"
    path = finder.find(name) or finder.folder / name
    # Reed et al.'s files contain the replacement character where their own conversion lost a letter.
    lines = (line.strip() for line in read_text(path).replace("\ufffd", " ").split("\n"))
    captions = tuple(line for line in lines if line)
    if not captions:
        raise UserError(f"caption file {path} is empty: write one caption a line, or restore the file")
    return captions


def _named_captions(captions: str | Path) -> Path:
    """The folder that `data.captions` names: the class folders are in it, or in its `text_c10`."""
    folder = user_path(captions)
    if not folder.is_dir():
        raise UserError(f"data.captions={captions} is no folder: give the one with <class folder>/<image>.txt")
    return _innermost(folder)


def _innermost(folder: Path) -> Path:
    """The inner folder of an archive that was unpacked into a folder of its own name, else `folder` itself."""
    return next((path for path in (folder / "text_c10", folder / folder.name) if path.is_dir()), folder)


def _has_classes(captions: Path, folder: Path) -> bool:
    return any((folder / "images" / each.name).is_dir() for each in visible_folders(captions)[:10])


def class_attributes(folder: Path) -> dict[int, dict[str, str]]:
    """Class id → part → the colour that most annotators saw there, for the parts on which most of them agree.

    Empty if the folder has no attributes.
    """
    percentages = folder / "attributes" / "class_attribute_labels_continuous.txt"
    # The official archive puts the list of attributes beside the folder, not into it.
    listings = (folder / "attributes" / "attributes.txt", folder.parent / "attributes.txt")
    listing = next((path for path in listings if path.is_file()), None)
    if listing is None or not percentages.is_file():
        return {}
    names = list(read_table(listing, "<attribute id> has_<what>::<value>", int, str).values())
    rows = list(read_rows(percentages, "<a percentage for each attribute>", *[float] * len(names)))
    classes = read_table(folder / "classes.txt", "<class id> <class folder>", int, str)
    # One row a class of classes.txt; a subset may have kept the rows of all 200 classes.
    row_of = {class_id: position for position, class_id in enumerate(classes)}
    if len(rows) != len(classes):
        row_of = {class_id: class_id - 1 for class_id in classes if 1 <= class_id <= len(rows)}
    colours = [re.fullmatch(r"has_(.+)_color::(.+)", name) for name in names]
    attributes: dict[int, dict[str, str]] = {}
    for class_id, row in row_of.items():
        certain = [pair for pair in zip(rows[row], colours, strict=True) if pair[0] > CERTAIN_PERCENTAGE]
        # The colour with the most votes for a part comes first, and only that one is kept.
        attributes[class_id] = {}
        for _, match in sorted(certain, key=lambda pair: -pair[0]):
            if match:
                part, colour = (words.replace("_", " ") for words in match.groups())
                attributes[class_id].setdefault(part, colour)
    return attributes


def class_prompts(name: str, attributes: dict[str, str]) -> tuple[str, ...]:
    """Sentences for a class without captions: its name, then its appearance.

    Args:
        name: In plain words, "Black footed Albatross".
        attributes: Part or `primary` → colour, such as `{"primary": "black", "upper tail": "white"}`.
    """
    named = with_article(name)
    prompts = [named, f"a photo of {named}", f"this bird is {named}", f"{named}, a kind of bird"]
    bird = with_article(f"{attributes['primary']} bird") if "primary" in attributes else "a bird"
    looks = [with_article(f"{colour} {part}") for part, colour in attributes.items() if part != "primary"]
    for first, second in zip(looks[::2], looks[1::2], strict=False):
        prompts += [f"{named} with {first} and {second}", f"{bird} with {first} and {second}"]
    return tuple(prompts[:PROMPTS_PER_CLASS])


def with_article(words: str) -> str:
    """Words with "a" or "an" in front: "a white bill", "an orange bill", but "white underparts"."""
    if words.endswith("parts"):
        return words
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


def _plain_words(class_folder: str) -> str:
    """`001.Black_footed_Albatross` → "Black footed Albatross"."""
    return re.sub(r"^\d+\.", "", class_folder).replace("_", " ").strip()


def _validation_images(
    records: dict[int, ImageRecord], files: dict[int, str], *, fraction: float, seed: int
) -> set[int]:
    """The ids of the training images set aside for validation.

    Images are ranked within their class by a hash of seed and file. In a subset of the classes, or with another order
    of `images.txt`, every image therefore falls into the same split as in the full copy.
    """

    def rank(image_id: int) -> bytes:
        path = PurePosixPath("images", unicodedata.normalize("NFC", files[image_id]))
        return hashlib.sha256(f"{seed}/{path.parent.name}/{path.name}".encode()).digest()

    by_class: dict[int, list[int]] = defaultdict(list)
    for image_id, record in records.items():
        by_class[record.class_index].append(image_id)
    chosen: set[int] = set()
    for members in by_class.values():
        count = min(max(1, round(fraction * len(members))), len(members) - 1) if fraction > 0 else 0
        chosen.update(sorted(members, key=rank)[:count])
    return chosen
