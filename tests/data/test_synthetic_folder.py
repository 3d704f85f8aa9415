"""A synthetic data set is drawn once, completely, and never into a folder that holds something else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meru.data.datasets.fine_grained import load_birds_discovery
from meru.data.synthetic.birds import load as birds
from meru.data.synthetic.birds.pictures import draw_picture
from meru.data.synthetic.birds.species import SPECIES
from meru.data.synthetic.folder import scratch_folder
from meru.errors import UserError
from meru.files import PROJECT


@pytest.fixture
def few(monkeypatch):
    """Four species only, for tests that draw several times."""
    monkeypatch.setattr(birds, "SPECIES", SPECIES[::12])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def draw(folder: Path, **arguments) -> Path:
    return birds.draw_birds(folder, **{"images_per_species": 2, "image_size": 32, **arguments})


def test_same_arguments_give_the_same_bytes(tmp_path, few):
    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    assert contents(first) == contents(second)
    other = contents(draw(tmp_path / "c", seed=1))
    pictures = [name for name in other if name.endswith(".jpg")]
    assert len(pictures) == 8
    assert all(other[name] != (first / name).read_bytes() for name in pictures)


def test_a_picture_does_not_depend_on_how_many_are_drawn(tmp_path, few):
    small, large = contents(draw(tmp_path / "a")), contents(draw(tmp_path / "b", images_per_species=3))
    pictures = [name for name in small if name.endswith(".jpg")]
    assert all(small[name] == large[name] for name in pictures)


def test_load_draws_once_and_reads_as_cub(tmp_path, few, monkeypatch):
    arguments = {"root": tmp_path / "birds", "images_per_species": 5, "image_size": 32, "validation_fraction": 0.34}
    data = birds.load_birds(**arguments)
    assert data.class_names[0] == "Green headed Grey Duck"
    assert [len(split) for split in (data.train, data.validation, data.test)] == [8, 4, 8]
    monkeypatch.setattr(birds, "draw_picture", None)
    assert birds.load_birds(**arguments) == data


def test_an_interrupted_drawing_leaves_nothing(tmp_path, few, monkeypatch):
    drawn = []

    def interrupted(*arguments, **options):
        drawn.append(1)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        assert not (tmp_path / "birds").exists()
        return draw_picture(*arguments, **options)

    monkeypatch.setattr(birds, "draw_picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "birds")
    assert len(drawn) == 5
    assert list(tmp_path.iterdir()) == []


def test_what_killed_drawings_left_behind_goes_with_the_next_one(tmp_path, few):
    program = (
        "import os, signal, sys; from pathlib import Path; from meru.data.synthetic.folder import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as scratch: (scratch / 'half').touch(); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", program, tmp_path / "birds"], env=environment)
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists() and left.name.startswith(".birds-")
    host, _, rest = left.name.removeprefix(".birds-").partition("-")
    kept = {
        f".birds-another_{host}-{rest}",  # of another machine
        f".birds-{host}-{os.getpid()}-{rest.partition('-')[2]}",  # its maker lives
        ".birds-x8wpa3qk",  # not made here
        f".pedestrians-{host}-{rest}",
    }
    for name in kept:
        (tmp_path / name).mkdir()
    draw(tmp_path / "birds")
    assert {path.name for path in tmp_path.iterdir()} == {"birds", *kept}


def test_a_maker_in_another_container_keeps_its_folder(tmp_path, few):
    """Its number may be that of no process here; its lock tells."""
    with scratch_folder(tmp_path / "birds") as scratch:
        strange = scratch.with_name(scratch.name.replace(f"-{os.getpid()}-", "-999999999-"))
        scratch.rename(strange)
        draw(tmp_path / "birds")
        assert strange.exists()
        strange.rename(scratch)
    assert [path.name for path in tmp_path.iterdir()] == ["birds"]


def test_a_root_in_the_home_folder_and_of_any_letters(tmp_path, few, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert draw("~/鸟类 (1)") == tmp_path / "鸟类 (1)"
    assert [path.name for path in tmp_path.iterdir()] == ["鸟类 (1)"]


def test_of_two_at_once_the_second_takes_what_the_first_made(tmp_path, few, monkeypatch):
    root, write = tmp_path / "birds", birds.BIRDS.write

    def overtaken(target, **arguments):
        write(target, **arguments)
        shutil.copytree(target, root)
        (root / "first").touch()

    monkeypatch.setattr(birds, "BIRDS", replace(birds.BIRDS, write=overtaken))
    assert draw(root) == root
    assert (root / "first").exists()
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("change", [{"seed": 1}, {"images_per_species": 3}, {"image_size": 48}])
def test_other_birds_in_the_folder_are_an_error(tmp_path, few, change):
    before = contents(draw(tmp_path / "birds"))
    with pytest.raises(UserError, match=next(iter(change))) as error:
        draw(tmp_path / "birds", **change)
    assert str(tmp_path / "birds") in str(error.value) and "\n" not in str(error.value)
    assert f"give +data.load.{next(iter(change))}=" in str(error.value)
    assert contents(tmp_path / "birds") == before


def test_a_folder_drawn_for_another_loader_names_the_key_that_fits(tmp_path, few):
    draw(tmp_path / "birds", image_size=96)
    with pytest.raises(UserError, match=r"give \+data\.load_discovery\.images_per_species=2, or set"):
        load_birds_discovery(root=tmp_path / "birds")


def test_a_foreign_folder_is_left_alone(tmp_path, few):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(UserError, match="something other than synthetic birds"):
        draw(tmp_path)
    assert contents(tmp_path) == {"letters.txt": b"dear"}


def test_a_place_that_cannot_be_written_is_an_error(tmp_path, few):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot draw into"):
        draw(tmp_path / "file" / "birds")


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"images_per_species": 1}, {"image_size": 31}, {"seed": 0.5}])
def test_arguments_out_of_range_are_errors(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        draw(tmp_path / "birds", **wrong)
    assert list(tmp_path.iterdir()) == []
