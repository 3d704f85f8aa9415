"""The synthetic birds and pedestrians are pixel for pixel and word for word those of pictures.json.

The pixels are taken when a picture is saved, before JPEG, whose coding differs between versions of its library.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import PIL
import pytest
from conftest import composed
from hydra.utils import instantiate
from PIL import Image

PINS = Path(__file__).with_name("pictures.json")

# The least that is synthesised of a kind, and two pictures of it that are pinned by themselves.
KINDS = {
    "birds": ({"images_per_species": 2}, ["Bar_tailed_Brown_Swallow_0001.jpg", "Crested_Grey_Owl_0002.jpg"]),
    "pedestrians": ({"identities": 6, "images_per_identity": 2}, ["0001_01.jpg", "0005_02.jpg"]),
}


def hashes_of(kind: str) -> dict[str, str]:
    """SHA-256 of the pixels of two pictures and of all, and of each text file: captions, parts, boxes, splits, …"""
    pixels: dict[str, str] = {}
    save = Image.Image.save

    def note(image: Image.Image, path: Path, *arguments, **options) -> None:
        pixels[Path(path).name] = sha256(f"{image.mode} {image.size}".encode() + image.tobytes())
        save(image, path, *arguments, **options)

    arguments, two = KINDS[kind]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", note)
        root = Path(folder, kind)
        instantiate(composed(f"data={kind}", f"data.root={root}").data.load, **arguments)
        files = sorted(path for path in root.rglob("*") if path.suffix in (".txt", ".json"))
        texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in files}
    captions = {name: text for name, text in texts.items() if name.startswith("text_c10/")}
    hashes = {
        **{name: pixels[name] for name in two},
        f"{len(pixels)} pictures": sha256(json.dumps(pixels, sort_keys=True).encode()),
        **{name: sha256(text.encode()) for name, text in texts.items() if name not in captions},
    }
    if captions:
        hashes[f"{len(captions)} files of captions"] = sha256(json.dumps(captions, sort_keys=True).encode())
    return hashes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_words_are_those_pinned(kind):
    pinned = json.loads(PINS.read_text(encoding="utf-8"))
    if PIL.__version__ != pinned["pillow"]:
        pytest.skip(f"the pixels are those of Pillow {pinned['pillow']}, this is {PIL.__version__}")
    assert hashes_of(kind) == pinned[kind]


def rewrite() -> None:
    """Pin the present pictures and words."""
    pins = {"pillow": PIL.__version__, **{kind: hashes_of(kind) for kind in KINDS}}
    PINS.write_text(json.dumps(pins, indent=1) + "\n", encoding="utf-8")
