"""The embedded data set of persons: people in a street, drawn by code, in the folder layout of CUHK-PEDES.

For text-based person search without CUHK-PEDES. An identity is a look (`pedestrian_looks`), seen in several pictures
that differ in pose, view, place, light and what stands in front; every picture has two captions.
`meru.data.datasets.person_search` reads the folder as it reads the photographs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from meru.data.datasets.person_search import load_person_search
from meru.data.records import ImageTextData
from meru.data.synthetic.folder import draw_once
from meru.data.synthetic.pedestrians.captions import describe
from meru.data.synthetic.pedestrians.looks import deal_looks
from meru.data.synthetic.pedestrians.pictures import draw_picture

# To be raised whenever the same arguments no longer give the same folder.
DRAWER_VERSION = 1
VALIDATION_SHARE, TEST_SHARE = 0.1, 0.25


def load_pedestrians(
    *, root: str | Path, seed: int = 0, identities: int = 400, images_per_identity: int = 4
) -> ImageTextData:
    """The drawn persons in `root`, drawn first if they are not there.

    Args:
        root, seed, identities, images_per_identity: As for `draw_pedestrians`.

    Raises:
        UserError: what `draw_pedestrians` and `load_person_search` complain of.
    """
    draw_pedestrians(root, seed=seed, identities=identities, images_per_identity=images_per_identity)
    return load_person_search(root=root, layout="cuhk_pedes")


def draw_pedestrians(
    root: str | Path, *, seed: int = 0, identities: int = 400, images_per_identity: int = 4
) -> Path:
    """Draws the data set into `root`, or finds it there.

    Under its own name the folder is complete, as `draw_once` makes sure.

    Args:
        root: The folder to make. One with the same persons is left as it is.
        seed: ≥ 0. The same seed gives the same bytes with the same versions of NumPy and Pillow.
        identities: ≥ 6; 10 % are for validation and 25 % for the test, at least two each, the others for training.
        images_per_identity: ≥ 1.

    Returns:
        `root`.

    Raises:
        UserError: an argument out of range; `root` holds other persons or something else, or cannot be written.
    """
    arguments = {"seed": seed, "identities": identities, "images_per_identity": images_per_identity}
    return draw_once(
        root,
        kind="pedestrians",
        version=DRAWER_VERSION,
        arguments=arguments,
        least={"seed": 0, "identities": 6, "images_per_identity": 1},
        pictures=lambda: identities * images_per_identity,
        write=lambda folder: _write_folder(folder, **arguments),
    )


def split_sizes(identities: int) -> dict[str, int]:
    """How many of the identities are in each split."""
    validation, test = (max(2, round(share * identities)) for share in (VALIDATION_SHARE, TEST_SHARE))
    return {"train": identities - validation - test, "val": validation, "test": test}


def _write_folder(folder: Path, *, seed: int, identities: int, images_per_identity: int) -> None:
    looks = deal_looks(split_sizes(identities), seed=seed)
    entries, identity = [], 0
    for split, of_split in looks.items():
        (folder / "imgs" / split).mkdir(parents=True)
        for look in of_split:
            identity += 1
            for number in range(1, images_per_identity + 1):
                rng = np.random.default_rng((seed, identity, number))
                picture = draw_picture(look, rng=rng)
                file = f"{split}/{identity:04d}_{number:02d}.jpg"
                picture.image.save(folder / "imgs" / file, quality=92, subsampling=0)
                captions = describe(
                    look, visible=picture.visible, view=picture.view, walking=picture.walking, rng=rng
                )
                entries.append(
                    {"split": split, "captions": captions, "id": identity, "file_path": file, "processed_tokens": []}
                )
    (folder / "reid_raw.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8", newline="\n")
