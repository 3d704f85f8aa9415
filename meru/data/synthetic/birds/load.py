"""The embedded data set: birds drawn by code, in the folder layout of CUB_200_2011, for people without CUB.

Eight families (silhouettes) of six species (colours and patterns) each; every picture has ten captions, a box and
CUB's fifteen parts. `meru.data.datasets.cub` reads the folder as it reads the photographs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from meru.data.datasets.cub import load_cub
from meru.data.records import ImageTextData
from meru.data.synthetic.birds.captions import describe
from meru.data.synthetic.birds.pictures import Picture, draw_picture
from meru.data.synthetic.birds.species import CUB_PARTS, SPECIES
from meru.data.synthetic.folder import draw_once

# To be raised whenever the same arguments no longer give the same folder.
DRAWER_VERSION = 1
TRAIN_SHARE = 0.6


def load_birds(
    *,
    root: str | Path,
    seed: int = 0,
    images_per_species: int = 40,
    image_size: int = 96,
    validation_fraction: float = 0.1,
) -> ImageTextData:
    """The drawn birds in `root`, drawn first if they are not there.

    Args:
        root, seed, images_per_species, image_size: As for `draw_birds`.
        validation_fraction: As for `load_cub`, which cuts the validation split with the same seed.

    Raises:
        UserError: what `draw_birds` and `load_cub` complain of.
    """
    draw_birds(root, seed=seed, images_per_species=images_per_species, image_size=image_size)
    return load_cub(root=root, validation_fraction=validation_fraction, seed=seed)


def draw_birds(
    root: str | Path, *, seed: int = 0, images_per_species: int = 40, image_size: int = 96
) -> Path:
    """Draws the data set into `root`, or finds it there.

    Under its own name the folder is complete, as `draw_once` makes sure.

    Args:
        root: The folder to make. One with the same birds is left as it is.
        seed: ≥ 0. The same seed gives the same bytes with the same versions of NumPy and Pillow.
        images_per_species: ≥ 2; of each species 60 %, chosen by lot, are for training, the others for the test.
        image_size: Pixels a side, ≥ 32.

    Returns:
        `root`.

    Raises:
        UserError: an argument out of range; `root` holds other birds or something else, or cannot be written.
    """
    arguments = {"seed": seed, "images_per_species": images_per_species, "image_size": image_size}
    return draw_once(
        root,
        kind="birds",
        version=DRAWER_VERSION,
        arguments=arguments,
        least={"seed": 0, "images_per_species": 2, "image_size": 32},
        pictures=lambda: len(SPECIES) * images_per_species,
        write=lambda folder: _write_folder(folder, **arguments),
    )


def _write_folder(folder: Path, *, seed: int, images_per_species: int, image_size: int) -> None:
    classes, images, labels, split, boxes, part_places = [], [], [], [], [], []
    train_count = min(max(round(TRAIN_SHARE * images_per_species), 1), images_per_species - 1)
    for class_id, species in enumerate(SPECIES, start=1):
        stem = species.name.replace(" ", "_").replace("-", "_")
        class_folder = f"{class_id:03d}.{stem}"
        classes.append(f"{class_id} {class_folder}")
        for kind in ("images", "text_c10"):
            (folder / kind / class_folder).mkdir(parents=True)
        lots = np.random.default_rng((seed, class_id)).permutation(images_per_species)
        for number, lot in enumerate(lots, start=1):
            rng = np.random.default_rng((seed, class_id, number))
            picture = draw_picture(species, rng=rng, image_size=image_size)
            captions = describe(
                species,
                parts=picture.parts,
                scene=picture.scene,
                facing=picture.facing,
                wings_raised=picture.wings_raised,
                rng=rng,
            )
            file = f"{class_folder}/{stem}_{number:04d}"
            picture.image.save(folder / "images" / f"{file}.jpg", quality=92)
            _write_lines(folder / "text_c10" / f"{file}.txt", captions)
            image_id = len(images) + 1
            images.append(f"{image_id} {file}.jpg")
            labels.append(f"{image_id} {class_id}")
            split.append(f"{image_id} {int(lot < train_count)}")
            boxes.append(f"{image_id} " + " ".join(f"{edge:.1f}" for edge in picture.box))
            part_places += _part_rows(image_id, picture)
    _write_lines(folder / "classes.txt", classes)
    _write_lines(folder / "images.txt", images)
    _write_lines(folder / "image_class_labels.txt", labels)
    _write_lines(folder / "train_test_split.txt", split)
    _write_lines(folder / "bounding_boxes.txt", boxes)
    (folder / "parts").mkdir()
    _write_lines(folder / "parts/parts.txt", [f"{k} {part}" for k, part in enumerate(CUB_PARTS, start=1)])
    _write_lines(folder / "parts/part_locs.txt", part_places)
    _write_attributes(folder / "attributes")


def _part_rows(image_id: int, picture: Picture) -> Iterable[str]:
    for part_id, part in enumerate(CUB_PARTS, start=1):
        x, y = picture.parts.get(part, (0.0, 0.0))
        yield f"{image_id} {part_id} {x:.1f} {y:.1f} {int(part in picture.parts)}"


def _write_attributes(folder: Path) -> None:
    """Per class the percentage of annotators who would see each attribute: all or none."""
    folder.mkdir()
    of_species = [species.attributes() for species in SPECIES]
    names = sorted(set().union(*of_species))
    _write_lines(folder / "attributes.txt", [f"{k} {name}" for k, name in enumerate(names, start=1)])
    rows = [" ".join("100.0" if name in true else "0.0" for name in names) for true in of_species]
    _write_lines(folder / "class_attribute_labels_continuous.txt", rows)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
