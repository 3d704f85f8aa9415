"""What a damaged index, or an image that has changed since, is answered with: one line."""

import json
import os
import shutil

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from meru.errors import UserError
from meru.index.building import Wanted, build_index
from meru.index.folder import open_index


@pytest.fixture(scope="module")
def made(cub_run, tmp_path_factory):
    """A folder with three images, and an index of them; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (40 + number, 30), (80 * number, 90, 10)).save(folder / "photos" / f"{number}.png")
    build_index(wanted(cub_run, folder / "photos", folder / "index"))
    return folder


@pytest.fixture
def photos(made):
    return made / "photos"


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the index, to be damaged."""
    return shutil.copytree(made / "index", tmp_path / "index")


def wanted(run, photos, folder):
    return Wanted(str(run), str(photos), output=str(folder), texts="none", labels="none", workers=0)


@pytest.mark.parametrize("name", ["points.1.f32", "half.1.f16", "rest.1.safetensors", "images.1.jsonl", "texts.1.json"])
@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_damaged_index_is_one_line(cub_run, photos, copied, name, damage):
    path = copied / name
    if damage == "remove":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="make it again|make the index again"):
        open_index(copied)
    assert len(build_index(wanted(cub_run, photos, copied)).index) == 3  # and it can be made again


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"version": 99}', ""])
def test_damaged_facts_are_one_line(cub_run, photos, copied, text):
    (copied / "index.json").write_text(text)
    with pytest.raises(UserError, match="make the index again"):
        open_index(copied)
    assert len(build_index(wanted(cub_run, photos, copied)).index) == 3  # and it can be made again
    assert len(open_index(copied)) == 3


@pytest.mark.parametrize("name", ["own", "plane", "root", "text_points"])
def test_an_index_without_one_of_its_tensors_is_one_line(copied, name):
    path = copied / "rest.1.safetensors"
    rest = load_file(path)
    del rest[name]
    save_file(rest, path)
    with pytest.raises(UserError, match="is damaged: make it again"):
        open_index(copied)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        *(("count", "6"), ("count", 0), ("generation", 1.5)),
        *(("curvature", -1), ("curvature", "1"), ("longest", None), ("kind", "x")),
    ],
)
def test_facts_that_cannot_be_are_one_line(copied, fact, value):
    path = copied / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), fact: value}))
    with pytest.raises(UserError, match="is damaged: make the index again"):
        open_index(copied)


@pytest.mark.parametrize("damaged", ["[1]", '{"x": "gulls"}', '{"1": 2}', "{"])
def test_a_damaged_file_of_names_is_named(copied, damaged):
    index = open_index(copied)
    assert index.cluster_names == {}
    (index.folder / "cluster_names.json").write_text(damaged)
    with pytest.raises(UserError, match="cluster_names.json cannot be read .*repair or remove it"):
        dict(index.cluster_names)
