"""Synthetic pedestrians in the folder layout of CUHK-PEDES, for text-based person search without CUHK-PEDES.

An identity is a look (`meru.data.synthetic.pedestrians.looks`), shown in several pictures that differ in pose, view,
place, light and occluders; every picture has two captions. `meru.data.datasets.person_search` reads the folder in the
same way as CUHK-PEDES.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from meru.data.datasets.person_search import load_person_search
from meru.data.heads import COLUMNS
from meru.data.records import ImageTextData
from meru.data.synthetic.folder import Drawing, write_lines
from meru.data.synthetic.pedestrians.captions import describe
from meru.data.synthetic.pedestrians.looks import deal_looks
from meru.data.synthetic.pedestrians.pictures import draw_picture

VALIDATION_SHARE, TEST_SHARE = 0.1, 0.25


def load_pedestrians(
    *, root: str | Path, seed: int = 0, identities: int = 400, images_per_identity: int = 4
) -> ImageTextData:
    """The synthetic persons in `root`, drawn first if they are missing.

    Args:
        root, seed, identities, images_per_identity: As for `draw_pedestrians`.

    Raises:
        UserError: as `draw_pedestrians` and `load_person_search`.
    """
    draw_pedestrians(root, seed=seed, identities=identities, images_per_identity=images_per_identity)
    return load_person_search(root=root, layout="cuhk_pedes")


def draw_pedestrians(
    root: str | Path, *, seed: int = 0, identities: int = 400, images_per_identity: int = 4
) -> Path:
    """Draw the data set into `root`, if it is not there yet: see `Drawing.draw`.

    Args:
        root: The folder to create. A folder with the same persons is left unchanged.
        seed: ≥ 0. The same seed gives the same bytes with the same versions of NumPy and Pillow.
        identities: ≥ 6; 10 % are for validation and 25 % for the test, at least two each, the others for training.
        images_per_identity: ≥ 1.
    """
    return PEDESTRIANS.draw(root, seed=seed, identities=identities, images_per_identity=images_per_identity)


def split_sizes(identities: int) -> dict[str, int]:
    """The number of identities in each split."""
    validation, test = (max(2, round(share * identities)) for share in (VALIDATION_SHARE, TEST_SHARE))
    return {"train": identities - validation - test, "val": validation, "test": test}


def _write_folder(folder: Path, *, seed: int, identities: int, images_per_identity: int) -> None:
    looks = deal_looks(split_sizes(identities), seed=seed)
    entries, identity, heads = [], 0, [",".join(COLUMNS)]
    for split, of_split in looks.items():
        (folder / "imgs" / split).mkdir(parents=True)
        for look in of_split:
            identity += 1
            for number in range(1, images_per_identity + 1):
                rng = np.random.default_rng((seed, identity, number))
                picture = draw_picture(look, rng=rng)
                file = f"{split}/{identity:04d}_{number:02d}.jpg"
                picture.image.save(folder / "imgs" / file, quality=92, subsampling=0)
                heads.append(",".join(map(str, (file, *picture.head))))
                captions = describe(
                    look, visible=picture.visible, view=picture.view, walking=picture.walking, rng=rng
                )
                entries.append(
                    {"split": split, "captions": captions, "id": identity, "file_path": file, "processed_tokens": []}
                )
    write_lines(folder / "heads.csv", heads)
    write_lines(folder / "reid_raw.json", [json.dumps(entries, indent=1)])


PEDESTRIANS = Drawing(
    kind="pedestrians",
    version=1,
    least={"seed": 0, "identities": 6, "images_per_identity": 1},
    count=lambda identities, images_per_identity, **_: identities * images_per_identity,
    write=_write_folder,
)
