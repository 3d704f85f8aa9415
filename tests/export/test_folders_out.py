"""Safetensors, Hub folders and the published layout: equal embeddings after loading, and no place of this machine."""

import json
import shutil

import pytest
import torch
import yaml
from finished_runs import SMALL, make_run
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open

import meru
from meru.errors import UserError
from meru.export import formats
from meru.export.card import model_card
from meru.export.card_data import data_name
from meru.export.folders import appearing
from meru.export.formats import export
from meru.export.origins import command_of
from meru.run_layout import ASKED
from meru.sources.hub_folder import is_hub_folder, read_hub_folder, without_paths
from meru.sources.opening import open_source

FIGURES = json.dumps({"zero_shot/accuracy@1": 0.25, "zero_shot/chance_accuracy@1": 0.02, "box_centre/accuracy@1": 0.9})


@pytest.fixture(scope="module")
def run(compose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secret place") / "run"
    config = compose("experiment=birds_meru", *SMALL, "model.norm_exponent=1", f"data.root={folder.parent / 'birds'}")
    return make_run(folder, config, figures=FIGURES)


@pytest.fixture(scope="module")
def original(run):
    return embeddings(run)


def embeddings(source):
    pretrained = meru.load(source)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = pretrained.tokenizer.batch(["a bird", "a small red bird"])
        return pretrained.model.embed_image(images), pretrained.model.embed_text(tokens)


@pytest.mark.parametrize("kind", ["safetensors", "hub"])
def test_a_folder_gives_the_same_embeddings_to_the_bit_and_names_no_place(run, original, kind, tmp_path):
    folder = tmp_path / "new" / "model"
    line = export({"run": str(run), "format": kind, "output": str(folder)})
    assert str(folder) in line and "model.safetensors" in line
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # no scratch folder is left
    for ours, theirs in zip(original, embeddings(folder), strict=True):
        assert torch.equal(ours, theirs)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.metadata()["architecture"] == "MERU"
    texts = [path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix != ".safetensors"]
    assert is_hub_folder(folder) and json.loads((folder / "config.json").read_text())["library_name"] == "meru"
    assert not any(place in text for text in texts for place in (str(run.parent), "secret place", str(tmp_path)))
    assert read_hub_folder(folder)[0].data.root == "birds"


def test_the_card_says_what_the_run_was_and_what_chance_is(run):
    _, head, body = model_card(open_source(run), repository="org/name").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "meru" and "hyperbolic" in front["tags"] and "license" not in front
    (result,) = front["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.25]
    assert "25.0 (2.0)" in body and "90.0" not in body
    assert 'meru.load("org/name")' in body and "random weights" in body and "| seed | 0 |" in body


@pytest.fixture
def own_run(compose, tmp_path):
    """`own_run(data, words)`: the source of a finished run on data of one's own."""

    def make(data, *words):
        config = compose("experiment=birds_meru", f"data={data}", *SMALL, *words)
        folder = make_run(tmp_path / "run", config, figures=FIGURES)
        asked = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")) | {"choices": {"data": data}}
        (folder / "asked.yaml").write_text(yaml.safe_dump(asked))
        return open_source(folder)

    return make


def test_the_card_names_data_of_ones_own_by_their_folder_with_counts(own_run, tmp_path):
    photos = tmp_path / "secret" / "my birds"
    for number in range(8):
        path = photos / f"{'red' if number % 2 else 'blue'}_bird_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    opened = own_run("pairs", f"data.path={photos}")
    card = model_card(opened)
    line = next(line for line in card.splitlines() if line.startswith("| data"))
    assert "my birds, the author's own images (data=pairs): 6 training, 1 validation and 1 test images of 2" in line
    assert "datasets:" not in card and "name: my birds" in card and "secret" not in card and "of pairs" not in card
    shutil.rmtree(photos)
    assert "| data | my birds, the author's own images (data=pairs) |" in model_card(opened)


def test_the_card_names_shards_by_their_folder(own_run):
    assert data_name(own_run("shards", "data.urls='/secret/cc3m/{00000..00330}.tar'")) == "cc3m"


def test_the_card_of_a_run_on_shards_has_its_command(compose, tmp_path):
    config = compose(*SMALL, "data=shards", "data.urls='/secret/cc3m/{0..3}.tar'", "data.batch_size=4")
    folder = make_run(tmp_path / "run", config)
    (folder / ASKED).write_text(yaml.safe_dump({"choices": {"data": "shards", "model": "meru"}}))
    command = command_of(folder, config)
    assert command.startswith("python scripts/train.py data=shards data.urls=") and "{0..3}.tar" in command
    assert "data.batch_size=4" in command and "secret" not in command


def test_the_card_names_the_licence_of_the_weights_it_started_from(run, compose, tmp_path):
    opened = open_source(run)
    opened.config.encoder.image.merge_with({"pretrained": True, "name": "vit_base_patch16_224.dino"})
    assert "license: apache-2.0" in model_card(opened)
    assert "license: cc-by-4.0" in model_card(opened, licence="cc-by-4.0")
    opened.config.encoder.init = "/somewhere/meru_vit_s.pth"
    card = model_card(opened)
    assert "license:" not in card and "The licence of the file meru_vit_s.pth applies" in card and "/some" not in card


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/my data/birds", "birds"),
        ("~/birds", "birds"),
        ("C:\\data\\birds", "birds"),
        ("../elsewhere/birds", "birds"),
        ("file:///data/birds", "birds"),
        ("pipe:cat /data/{00..09}.tar", "pipe:cat {00..09}.tar"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("a photo of a {} / {}", "a photo of a {} / {}"),
        ("data/birds", "data/birds"),
    ],
)
def test_paths_of_a_machine_are_shortened(text, expected):
    assert without_paths(text) == expected


def test_the_published_layout_has_exactly_the_published_names(run, compose, tmp_path, caplog):
    export({"run": str(run), "format": "meru", "output": str(tmp_path / "out")})
    content = torch.load(tmp_path / "out" / "meru.pth", weights_only=True)
    names = content["model"].keys()
    assert list(content) == ["model"]
    assert {name for name in names if not name.startswith(("visual.", "textual."))} == {
        "visual_proj.weight", "textual_proj.weight", "logit_scale", "pixel_mean", "pixel_std",
        "curv", "visual_alpha", "textual_alpha",
    }  # fmt: skip
    assert {"textual.token_embed.weight", "textual.posit_embed", "textual.resblocks.0.attn.in_proj_weight"} <= names
    uncha = make_run(tmp_path / "uncha", compose("experiment=birds_meru", "model=uncha", *SMALL))
    with caplog.at_level("INFO", logger="meru"):
        export({"run": str(uncha), "format": "meru", "output": str(tmp_path / "uncha_out")})
    assert torch.load(tmp_path / "uncha_out" / "meru.pth", weights_only=True)["model"].keys() == names
    assert "left out: part_logit_scale, part_whole_logit_scale" in caplog.text
    flat = make_run(tmp_path / "flat", compose("experiment=birds_meru", "model.space=euclidean", *SMALL))
    with pytest.raises(UserError, match="model.space=euclidean: the published code has the hyperboloid"):
        export({"run": str(flat), "format": "meru", "output": str(tmp_path / "flat_out")})
    assert not (tmp_path / "flat_out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "run= is missing"),
        ({"run": "x", "format": "torch", "output": "y"}, "format=torch: choose one of safetensors, onnx, hub, meru"),
        ({"run": "x", "format": "hub", "output": "y", "opset": "18"}, "opset=: format=hub takes run, format, output"),
        ({"run": "x", "format": "onnx", "output": "y", "opset": "9"}, "opset=9 is too old"),
        ({"run": "x", "format": "onnx", "output": "y", "opset": "old"}, "opset=old: give a whole number"),
        ({"run": "x", "format": "onnx", "output": "y", "opset": "²"}, "opset=²: give a whole number"),
        ({"run": "x", "format": "onnx", "output": "y", "opset": "99"}, "opset=99: the installed onnx knows"),
        ({"run": "x", "format": "onnx", "output": "y", "pixels": "int"}, "pixels=int: choose one of uint8, float"),
        ({"run": "x", "format": "hub", "output": "y", "private": "true"}, "private=: only with push_to_hub"),
        ({"run": "x", "format": "hub", "output": "y", "push_to_hub": "name"}, "give organisation/name"),
        ({"run": "x", "format": "hub", "output": "y", "license": "foo"}, "license=foo: give the Hub's identifier"),
        ({"run": "x", "format": "hub", "output": "y", "license": "cc-by-4"}, "such as cc-by-4.0"),
        ({"run": "x", "format": "hub", "output": "m.safetensors"}, "output=m.safetensors is named like a file"),
        ({"run": "nowhere", "format": "hub", "output": "y", "license": "MIT"}, "nowhere"),
    ],
)
def test_unsuitable_arguments_are_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        export(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused_and_a_failure_leaves_nothing(run, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="full is not empty"):
        export({"run": str(run), "format": "hub", "output": str(tmp_path / "full")})
    with pytest.raises(KeyError), appearing(tmp_path / "deep" / "down") as filled:
        (filled / "half").touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    (tmp_path / "empty").mkdir()
    export({"run": str(run), "format": "safetensors", "output": str(tmp_path / "empty")})
    assert len(list((tmp_path / "empty").iterdir())) == 2


def test_nothing_is_uploaded_unless_asked_and_without_a_token_it_is_one_line(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(formats, "push", lambda *place, **options: asked.append((*place, options)) or "uploaded")
    arguments = {"run": str(run), "format": "hub", "output": str(tmp_path / "a")}
    export(arguments)
    assert asked == []
    export({**arguments, "output": str(tmp_path / "b"), "push_to_hub": "org/name", "private": "true"})
    assert asked == [(tmp_path / "b", "org/name", {"private": True})]


def test_an_upload_that_fails_is_one_line_and_the_folder_stays(tmp_path, monkeypatch):
    import huggingface_hub

    from meru.export.hub import push

    def fail(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(UserError, match=r"push_to_hub=org/name: not uploaded \(no route to host\); the folder .* is"):
        push(tmp_path, "org/name", private=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ('{"library_name": "meru"}', "it has no section meru"),
        ('{"meru": {"model": {}}}', "meru.data is missing"),
    ],
)
def test_a_damaged_hub_folder_is_one_line(content, message, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_hub_folder(tmp_path)
