"""The embedded data set: birds drawn by code, in the folder layout of CUB_200_2011, for people without CUB.

Eight families (silhouettes) of six species (colours and patterns) each, with ten captions, a bounding box and CUB's
fifteen parts per picture. `meru.data.cub` reads the folder like the photographs' own.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from meru.data.bird_captions import describe
from meru.data.bird_drawing import Picture, draw_picture
from meru.data.bird_species import CUB_PARTS, SPECIES
from meru.data.cub import ImageTextData, load_cub
from meru.errors import UserError

# To be raised whenever the same seed no longer gives the same folder.
DRAWER_VERSION = 1
TRAIN_SHARE = 0.6

log = logging.getLogger("meru")


def load_birds(
    *,
    root: str | Path,
    seed: int = 0,
    images_per_species: int = 40,
    image_size: int = 96,
    validation_fraction: float = 0.1,
) -> ImageTextData:
    """The drawn birds in `root`, drawn first if they are not there; arguments as for `draw_birds` and `load_cub`.

    Raises:
        UserError: `root` holds something else, or birds drawn with other arguments, or cannot be written.
    """
    draw_birds(root, seed=seed, images_per_species=images_per_species, image_size=image_size)
    return load_cub(root=root, validation_fraction=validation_fraction, seed=seed)


def draw_birds(root: str | Path, *, seed: int = 0, images_per_species: int = 40, image_size: int = 96) -> Path:
    """Draws the data set into `root`, or finds it there.

    Everything is drawn into a temporary folder beside `root` and renamed at the end: under its own name the data set
    is complete, also when several processes draw at once or one of them is killed.

    Args:
        root: The folder to make. One with the same birds is left as it is.
        seed: ≥ 0. The same seed gives the same bytes, for the same versions of NumPy and Pillow.
        images_per_species: ≥ 2; 60 % are for training, the rest for the test, by lot within each species.
        image_size: Pixels a side, ≥ 32.

    Returns:
        `root`.

    Raises:
        UserError: an argument out of range, `root` holds something else, or it cannot be written.
    """
    root = Path(root)
    arguments = {"seed": seed, "images_per_species": images_per_species, "image_size": image_size}
    for (name, value), least in zip(arguments.items(), (0, 2, 32), strict=True):
        if not isinstance(value, int) or value < least:
            raise UserError(f"birds: {name} is {value!r}; it has to be a whole number ≥ {least}")
    if _already_drawn(root, arguments):
        return root
    started = time.monotonic()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
            folder = Path(scratch) / root.name
            _write_folder(folder, **arguments)
            try:
                os.rename(folder, root)
            except OSError:
                # Another process may have finished the same drawing first; theirs is as good.
                if not _already_drawn(root, arguments):
                    raise
    except OSError as error:
        raise UserError(
            f"birds: cannot draw into {root} ({error.strerror or error}); free the disk or choose another data.root",
            exit_code=1,
        ) from error
    log.info("drew %d birds into %s in %.1f s", len(SPECIES) * images_per_species, root, time.monotonic() - started)
    return root


def _already_drawn(root: Path, arguments: dict[str, int]) -> bool:
    """Whether `root` holds exactly the birds asked for; another kind of content is a `UserError`."""
    if not root.is_dir() and not root.exists():
        return False
    if root.is_dir() and not any(root.iterdir()):
        return False
    wanted = {"drawer_version": DRAWER_VERSION, **arguments}
    try:
        found = json.loads((root / "birds.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"birds: {root} is not a folder of drawn birds (no birds.json); choose another data.root")
    differing = [f"{name}={found.get(name)!r} instead of {value}" for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise UserError(
            f"birds: {root} was drawn with {', '.join(differing)}; delete the folder to draw it anew or choose another data.root"
        )
    return True


def _write_folder(folder: Path, *, seed: int, images_per_species: int, image_size: int) -> None:
    tables: dict[str, list[str]] = {
        name: [] for name in
        ("classes", "images", "image_class_labels", "train_test_split", "bounding_boxes", "parts/part_locs")
    }  # fmt: skip
    (folder / "parts").mkdir(parents=True)
    image_id = 0
    for class_id, species in enumerate(SPECIES, start=1):
        stem = species.name.replace(" ", "_").replace("-", "_")
        class_folder = f"{class_id:03d}.{stem}"
        for kind in ("images", "text_c10"):
            (folder / kind / class_folder).mkdir(parents=True)
        tables["classes"].append(f"{class_id} {class_folder}")
        lot = np.random.default_rng((seed, class_id)).permutation(images_per_species)
        train_count = min(max(round(TRAIN_SHARE * images_per_species), 1), images_per_species - 1)
        for number in range(1, images_per_species + 1):
            image_id += 1
            rng = np.random.default_rng((seed, class_id, number))
            picture = draw_picture(species, rng=rng, image_size=image_size)
            captions = describe(
                species, parts=picture.parts, scene=picture.scene, facing=picture.facing,
                wings_raised=picture.wings_raised, rng=rng,
            )  # fmt: skip
            file = f"{class_folder}/{stem}_{number:04d}"
            picture.image.save(folder / "images" / f"{file}.jpg", quality=92)
            _write_lines(folder / "text_c10" / f"{file}.txt", captions)
            tables["images"].append(f"{image_id} {file}.jpg")
            tables["image_class_labels"].append(f"{image_id} {class_id}")
            tables["train_test_split"].append(f"{image_id} {int(lot[number - 1] < train_count)}")
            tables["bounding_boxes"].append(f"{image_id} " + " ".join(f"{edge:.1f}" for edge in picture.box))
            tables["parts/part_locs"] += _part_rows(image_id, picture)
    for name, lines in tables.items():
        _write_lines(folder / f"{name}.txt", lines)
    _write_lines(folder / "parts" / "parts.txt", [f"{k} {part}" for k, part in enumerate(CUB_PARTS, start=1)])
    _write_attributes(folder / "attributes")
    described = {"drawer_version": DRAWER_VERSION, "seed": seed, "images_per_species": images_per_species,
                 "image_size": image_size}  # fmt: skip
    _write_lines(folder / "birds.json", [json.dumps(described, indent=2)])


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
