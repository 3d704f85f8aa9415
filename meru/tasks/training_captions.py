"""The captions that a run trains on: those of the data set, of a file, and wrong ones, as the section `data` says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meru.data.caption_files import read_captions_file, with_captions_of
from meru.data.caption_noise import with_wrong_captions
from meru.data.records import ImageTextData

log = logging.getLogger("meru")


def evaluated_data(data: ImageTextData, section: Mapping[str, Any]) -> ImageTextData:
    """The data as evaluation sees them: with their own captions unless `data.evaluate_generated`.

    Args:
        data: As loaded.
        section: The configuration's `data`; older ones lack the keys.

    Raises:
        UserError: for a file of captions that is malformed or of other images.
    """
    if not section.get("captions_from") or not section.get("evaluate_generated"):
        return data
    return _described(data, section, everywhere=True)


def taught_data(data: ImageTextData, section: Mapping[str, Any]) -> ImageTextData:
    """The data as training sees them: a pure function of the data, the file of captions and `data.split_seed`.

    So a resumed run, every process and every training seed have the same captions.

    Args:
        data: Of `evaluated_data`.
        section: The configuration's `data`; older ones lack the keys.

    Raises:
        UserError: as `evaluated_data`; or for wrong captions that cannot be made.
    """
    if section.get("captions_from") and not section.get("evaluate_generated"):
        data = _described(data, section)
    if share := section.get("caption_noise"):
        kind = section["caption_noise_kind"]
        data, wrong, pairs = with_wrong_captions(data, share=share, kind=kind, seed=section["split_seed"])
        log.info(
            "wrong captions: %d of %d training pairs have one of another %s (data.caption_noise=%g, %s)",
            wrong, pairs, data.class_kind, share, kind,
        )  # fmt: skip
    return data


def _described(data: ImageTextData, section: Mapping[str, Any], *, everywhere: bool = False) -> ImageTextData:
    path, mode = Path(section["captions_from"]), section["captions_mode"]
    share = section["generated_share"]
    captions = read_captions_file(path)
    data, images, without, unknown = with_captions_of(
        data, captions, mode=mode, share=share, everywhere=everywhere, path=path
    )
    how = f"{mode}, share {share:g}" if mode == "mix" else mode
    log.info(
        "captions of %s (%s) for %d training images; %d without an entry keep their own; %d entries are of no image%s",
        path, how, images, without, unknown, "; evaluation has them too" if everywhere else "",
    )  # fmt: skip
    return data
