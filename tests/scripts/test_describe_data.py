"""`scripts/prepare_data.py describe`: the files it writes are those that training reads; and its exit codes."""

import json
from functools import partial

import pytest

from meru.data.caption_files import read_captions_file, with_captions_of
from meru.data.datasets.cub import load_cub


@pytest.fixture
def run(prepare_data):
    """`run("data=cub", "output=…")`: exit code, standard output, standard error."""
    return partial(prepare_data, "describe")


def test_the_files_are_read_by_training_and_are_of_all_images(run, cub_folder, tmp_path):
    code, out, err = run("data=cub", f"data.root={cub_folder}", f"output={tmp_path / 'captions'}")
    assert (code, err) == (0, "")
    data = load_cub(root=cub_folder)
    for richness in ("names", "attributes", "sentences", "first"):
        path = tmp_path / "captions" / f"{richness}.json"
        assert str(path) in out
        captions = read_captions_file(path)
        described = with_captions_of(data, captions, mode="replace", share=0.5)
        assert (described.without, described.unknown) == (0, 0) and described.images == len(data.train)
        if richness == "first":
            assert described.data.train[0].captions == data.train[0].captions[:1]
    sentences = json.loads((tmp_path / "captions" / "sentences.json").read_text())
    assert any("Its wing is red." in caption for captions in sentences.values() for caption in captions)


def test_persons_have_no_names_to_write_about(run, person_folder, tmp_path):
    words = ("data=pedestrians", f"data.root={person_folder}", "+data.load.identities=13")
    code, out, err = run(*words, "+data.load.images_per_identity=1", f"output={tmp_path / 'captions'}")
    assert code == 1 and ".json" not in out and err.count("\n") == 1 and "templates need the names of classes" in err
    assert not (tmp_path / "captions").exists()


def test_wrong_words_are_usage(run, tmp_path):
    code, _, err = run("data=cub", "data.caption_noise=3", f"output={tmp_path / 'captions'}")
    assert code == 2 and err.count("\n") == 1 and "data.caption_noise=3" in err
    assert run("data=cub")[0] == 2
    (tmp_path / "file.json").write_text("")
    assert run("data=cub", f"output={tmp_path / 'file.json'}")[0] == 2
