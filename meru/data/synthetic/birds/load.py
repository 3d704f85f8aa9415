"""Synthetic birds in the folder layout of CUB_200_2011, for people without CUB.

Eight families (silhouettes) of six species (colours and patterns) each; every picture has ten captions, a box and
CUB's fifteen parts. `meru.data.datasets.cub` reads the folder in the same way as CUB's.
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
from meru.data.synthetic.folder import Drawing, write_lines

TRAIN_SHARE = 0.6


def load_birds(
    *,
    root: str | Path,
    seed: int = 0,
    images_per_species: int = 40,
    image_size: int = 96,
    validation_fraction: float = 0.1,
    section: str = "data.load",
) -> ImageTextData:
    """The synthetic birds in `root`, drawn first if they are missing.

    Args:
        root, seed, images_per_species, image_size: As for `draw_birds`.
        validation_fraction: As for `load_cub`, which chooses the validation split with the same seed.
        section: Of the configuration, whose keys messages name.

    Raises:
        UserError: as `draw_birds` and `load_cub`.
    """
    draw_birds(root, seed=seed, images_per_species=images_per_species, image_size=image_size, section=section)
    return load_cub(root=root, validation_fraction=validation_fraction, seed=seed)


def draw_birds(
    root: str | Path,
    *,
    seed: int = 0,
    images_per_species: int = 40,
    image_size: int = 96,
    section: str = "data.load",
) -> Path:
    """Draw the data set into `root`, if it is not there yet: see `Drawing.draw`.

    Args:
        root: The folder to create. A folder with the same birds is left unchanged.
        seed: ≥ 0. The same seed gives the same bytes with the same versions of NumPy and Pillow.
        images_per_species: ≥ 2; of each species, 60 % chosen at random are for training, the others for the test.
        image_size: Side in pixels, ≥ 32.
        section: Of the configuration, whose keys messages name.
    """
    return BIRDS.draw(
        root, section=section, seed=seed, images_per_species=images_per_species, image_size=image_size
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
            write_lines(folder / "text_c10" / f"{file}.txt", captions)
            image_id = len(images) + 1
            images.append(f"{image_id} {file}.jpg")
            labels.append(f"{image_id} {class_id}")
            split.append(f"{image_id} {int(lot < train_count)}")
            boxes.append(f"{image_id} " + " ".join(f"{edge:.1f}" for edge in picture.box))
            part_places += _part_rows(image_id, picture)
    write_lines(folder / "classes.txt", classes)
    write_lines(folder / "images.txt", images)
    write_lines(folder / "image_class_labels.txt", labels)
    write_lines(folder / "train_test_split.txt", split)
    write_lines(folder / "bounding_boxes.txt", boxes)
    (folder / "parts").mkdir()
    write_lines(folder / "parts/parts.txt", [f"{k} {part}" for k, part in enumerate(CUB_PARTS, start=1)])
    write_lines(folder / "parts/part_locs.txt", part_places)
    _write_attributes(folder / "attributes")


def _part_rows(image_id: int, picture: Picture) -> Iterable[str]:
    for part_id, part in enumerate(CUB_PARTS, start=1):
        x, y = picture.parts.get(part, (0.0, 0.0))
        yield f"{image_id} {part_id} {x:.1f} {y:.1f} {int(part in picture.parts)}"


def _write_attributes(folder: Path) -> None:
    """Write, per class, the percentage of annotators for each attribute: 100 if it is true of the species, else 0."""
    folder.mkdir()
    of_species = [species.attributes() for species in SPECIES]
    names = sorted(set().union(*of_species))
    write_lines(folder / "attributes.txt", [f"{k} {name}" for k, name in enumerate(names, start=1)])
    rows = [" ".join("100.0" if name in true else "0.0" for name in names) for true in of_species]
    write_lines(folder / "class_attribute_labels_continuous.txt", rows)


BIRDS = Drawing(
    kind="birds",
    version=1,
    least={"seed": 0, "images_per_species": 2, "image_size": 32},
    count=lambda images_per_species, **_: len(SPECIES) * images_per_species,
    write=_write_folder,
)
