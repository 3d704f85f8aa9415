"""Karpathy's lists of COCO, Flickr30k and Flickr8k: `dataset_coco.json` and the like.

Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015.
"""

from __future__ import annotations

import reprlib
from pathlib import Path

from meru.data.datasets.own.rows import Row, label, sentences
from meru.data.texts import read_json
from meru.errors import UserError


def is_karpathy(path: Path) -> bool:
    """Whether a JSON file holds images with sentences."""
    value = read_json(path)
    images = value.get("images") if isinstance(value, dict) else None
    return bool(isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0])


def karpathy_rows(path: Path) -> list[Row]:
    """The images of such a list, with their folder if it names one, split and all sentences, also repeated ones.

    Raises:
        UserError: for another form; the message gives the position of the entry.
    """
    value = read_json(path)
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f'{path} is not a list of the form {{"images": [{{"filename", "split", "sentences"}}]}}')
    rows = []
    for number, image in enumerate(images, start=1):
        where = f"{path}, image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str) or not image["filename"].strip():
            raise UserError(f"{where} has no filename: {reprlib.repr(image)}")
        listed = image.get("sentences")
        if not isinstance(listed, list) or not all(isinstance(each, dict) and "raw" in each for each in listed):
            raise UserError(f"{where}: sentences must be a list of objects with raw, not {reprlib.repr(listed)}")
        folder = image.get("filepath")
        if folder is not None and not isinstance(folder, str):
            raise UserError(f"{where}: filepath is {reprlib.repr(folder)}, not a folder")
        split = label(image.get("split"), where, what="split")
        if split is None:
            raise UserError(f"{where} has no split: give train, restval, val or test")
        name = f"{folder}/{image['filename']}" if folder else image["filename"]
        captions = sentences([each["raw"] for each in listed], where, repeated=True)
        rows.append(Row(name, where=where, captions=captions, split=split))
    return rows
