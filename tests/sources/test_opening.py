"""Every kind of source is told apart and opened; what is none of them is one line."""

import json
import pickle

import hydra
import open_clip
import pytest
import timm
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import save_file
from torch.nn import functional as F

import meru
from meru.assemble import build
from meru.configuration.saved import save_config
from meru.errors import UserError
from meru.files import CONFIGS
from meru.runs.evaluate import evaluate_run
from meru.runs.visualize import visualize
from meru.sources import hub
from meru.sources.composed import composed_config
from meru.sources.hub_folder import write_hub_config
from meru.sources.opening import open_source

CAPTIONS = ["a red bird", "a bird with a long bill"]


@pytest.fixture(scope="module")
def images():
    return torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def run(compose, tmp_path_factory):
    """The folder of a finished run of MERU on small towers, never trained."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    folder.mkdir()
    config = compose("encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A1", "name=small")
    torch.manual_seed(0)
    weights = build(config).model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    save_config(folder, config)
    return folder


@pytest.fixture(scope="module")
def hub_folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "small-meru"
    folder.mkdir()
    write_hub_config(folder, open_source(run).config)
    (folder / "model.safetensors").symlink_to(run / "model.safetensors")
    return folder


@pytest.fixture
def small(small_clip):
    """A CLIP of open_clip, with the name `small`."""
    torch.manual_seed(0)
    return open_clip.create_model("small").eval()


@pytest.fixture
def no_network(monkeypatch):
    """A hub that cannot be reached, at once."""

    def fail(*_, **__):
        raise OSError("Name or service not known")

    for name in ("list_repo_files", "snapshot_download", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", fail)
    monkeypatch.setattr(open_clip, "create_model", fail)
    create = timm.create_model

    def create_without_weights(*words, pretrained=False, **keys):
        return fail() if pretrained else create(*words, **keys)

    monkeypatch.setattr(timm, "create_model", create_without_weights)


@torch.no_grad()
def test_a_run_and_its_hub_folder_embed_alike(run, hub_folder, images):
    ours, theirs = meru.load(run), meru.from_pretrained(str(hub_folder))
    assert torch.equal(ours.encode_image(images), theirs.encode_image(images))
    assert torch.equal(ours.encode_text(CAPTIONS), theirs.encode_text(CAPTIONS))
    assert not theirs.model.training and ours.encode_text(CAPTIONS).shape == (2, 128)
    opened = open_source(hub_folder)
    assert (opened.name, opened.folder, opened.has_data) == ("small-meru", None, True)
    assert open_source(run).folder == run


@torch.no_grad()
@pytest.mark.parametrize("archived", [False, True])
def test_a_file_of_open_clip_embeds_as_open_clip_does(archived, small_clip, tmp_path):
    torch.manual_seed(0)
    reference = open_clip.create_model("small", force_quick_gelu=archived).eval()
    sizes = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77)} if archived else {}
    torch.save(reference.state_dict() | sizes, tmp_path / "small.pt")
    loaded = meru.load(tmp_path / "small.pt")
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (reference.visual.image_mean, reference.visual.image_std))
    expected = F.normalize(reference.encode_image((images / 255 - mean) / std), dim=-1)
    torch.testing.assert_close(loaded.encode_image(images), expected, rtol=1e-4, atol=1e-5)
    tokens = open_clip.get_tokenizer("small")(CAPTIONS)  # padded to 77
    expected = F.normalize(reference.encode_text(tokens), dim=-1)
    for texts in (CAPTIONS, tokens, loaded.tokenizer(CAPTIONS)):
        torch.testing.assert_close(loaded.encode_text(texts), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_folder_of_open_clip_takes_its_normalisation(small, tmp_path):
    preparation = {"mean": [0.1] * 3, "std": [2] * 3}
    described = {"model_cfg": open_clip.get_model_config("small"), "preprocess_cfg": preparation}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="it has no weights"):
        open_source(tmp_path)
    save_file(small.state_dict(), tmp_path / "open_clip_model.safetensors")
    images = torch.rand(1, 3, 64, 64)
    expected = F.normalize(small.encode_image((images - 0.1) / 2), dim=-1)
    torch.testing.assert_close(meru.load(tmp_path).encode_image(images), expected, rtol=1e-4, atol=1e-5)
    for content, message in (("{", "damaged"), ('{"model_cfg": {"embed_dim": 5}}', "damaged"), ("[]", "damaged")):
        (tmp_path / "open_clip_config.json").write_text(content)
        with pytest.raises(UserError, match=f"open_clip_config.json is {message}"):
            open_source(tmp_path)


@torch.no_grad()
def test_a_tower_of_timm_embeds_images_only(monkeypatch, compose, cub_folder, tmp_path):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *words, pretrained=False, **keys: create(*words, **keys))
    torch.manual_seed(0)
    loaded = meru.load("timm:test_resnet.r160_in1k")
    images = torch.randint(256, (2, 3, 160, 160), dtype=torch.uint8)
    points = loaded.encode_image(images)
    mean, std = (torch.tensor(loaded.model.visual.pretrained_cfg[each]).view(3, 1, 1) for each in ("mean", "std"))
    expected = F.normalize(loaded.model.visual((images / 255 - mean) / std), dim=-1)
    torch.testing.assert_close(points, expected, rtol=1e-4, atol=1e-5)
    assert loaded.similarity(points, points).diagonal().tolist() == pytest.approx([1, 1])
    assert loaded.tokenizer is None
    with pytest.raises(UserError, match="has no text tower"):
        loaded.encode_text("a bird")
    words = ["run=timm:test_resnet.r160_in1k", "workers=0", "data=cub", f"root={cub_folder}"]
    with pytest.raises(UserError, match="run=test_resnet.r160_in1k has no text tower, which this evaluation needs"):
        evaluate_run(compose(*words, name="evaluate"))
    image = next(cub_folder.rglob("*.jpg"))
    with pytest.raises(UserError, match="has no text tower, so words have no attention maps"):
        visualize("attention", {"run": "timm:test_resnet.r160_in1k", "image": str(image), "text": "a bird"})


def test_an_id_of_the_hub_downloads_a_folder_with_one_file_of_weights(hub_folder, monkeypatch):
    asked = []

    def download(name, *, allow_patterns=None, local_files_only=False):
        asked.append((name, allow_patterns))
        return str(hub_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    files = ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "model.onnx"]
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: files)
    for word in ("hf-hub:org/small-meru", "org/small-meru"):
        opened = open_source(word)
        assert opened.name == "org/small-meru" and asked[-1] == ("org/small-meru", ["config.json", "model.safetensors"])
    assert opened.pretrained.encode_text(CAPTIONS).shape == (2, 128)


def test_a_repository_with_several_files_needs_the_name_of_one(monkeypatch, tmp_path, no_network):
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["a_vit_s.pth", "a_vit_b.pth", "README.md"])
    several = r"org/a has several files of weights; name one: hf-hub:org/a/a_vit_s.pth, hf-hub:org/a/a_vit_b.pth$"
    with pytest.raises(UserError, match=several):
        open_source("org/a")
    torch.save({"other": torch.zeros(2)}, tmp_path / "a_vit_s.pth")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: str(tmp_path / file))
    with pytest.raises(UserError, match=r"a_vit_s.pth holds 1 tensors of no known kind \(other\)"):
        open_source("hf-hub:org/a/a_vit_s.pth")
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: ["README.md"])
    with pytest.raises(UserError, match="org/a has no weights"):
        open_source("org/a")


def test_without_network_the_cache_is_used(monkeypatch, hub_folder, no_network):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(hub_folder))
    assert open_source("org/small-meru").config.name == "small"


@pytest.mark.parametrize(
    "source",
    [
        "org/name", "hf-hub:org/name", "org/name/file.pth", "ViT-B-16/openai", "open_clip:RN50/openai",
        "timm:resnet18", "timm:vit_small_patch16_224.dino",
    ],
)  # fmt: skip
def test_without_network_one_line_says_what_to_do(source, no_network):
    message = "Name or service not known.*HF_ENDPOINT=.*HF_HOME=.*name their file or folder"
    with pytest.raises(UserError, match=message) as caught:
        _ = open_source(source).pretrained
    assert "\n" not in str(caught.value) and "encoder." not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "nothing is not a run folder: .*/nothing does not exist; give the folder of a finished run, a fol"),
        ("a/b/c", "is not a run folder: .* does not exist; give"),
        ("tests/nothing", "is not a run folder: .* does not exist; give"),
        ("hf-hub:name", "write the id of a repository as hf-hub:org/name"),
        ("hf-hub:../name", "write the id of a repository"),
        ("ViT-B-16/opena", "no such weights of ViT-B-16; write one of ViT-B-16/openai, "),
        ("ViT-B-16", "no such weights of ViT-B-16; write one of ViT-B-16/openai, "),
        ("open_clip:ViT-X/openai", "open_clip has no model ViT-X"),
        ("open_clip:", "open_clip has no model"),
        ("timm:", "timm has no such model"),
        ("timm:resnet17", "timm has no such model"),
        ("timm:resnet18.nothing", "timm has no weights of that name; there are resnet18."),
        (7, "give the folder of a finished run"),
    ],
)
def test_what_is_no_source_says_what_may_be_given(source, message, monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        open_source(source)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


class Code:
    def __reduce__(self):
        return print, ("run!",)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is not a run folder: .*config.yaml is missing; it holds no weights either"),
        ({"a.pth": {"x": torch.ones(1)}, "b.pth": {"x": torch.ones(1)}}, r"name the file in it: it has a.pth, b.pth"),
        ({"a.pth": Code()}, "would call .*print when it is loaded"),
        ({"a.pth": {"text_model.x": torch.ones(1)}}, "Hugging Face's transformers: name open_clip's tag"),
        ({"a.pth": {"vision_encoder.backbone.x": torch.ones(1)}}, "holds Hyper3-CLIP, whose text tower"),
        ({"a.pth": {"blocks.0.x": torch.ones(1)}}, "holds an image tower alone"),
        ({"a.pth": {"visual.conv1.weight": torch.ones(1), "textual.x": torch.ones(1)}}, "no plain vision transformer"),
        ({"a.pth": {"visual.conv1.weight": torch.ones(1), "positional_embedding": torch.ones(2)}}, "only a part of a"),
        ({"a.pth": b"<html>"}, "is a web page instead of the weights"),
    ],
)
def test_folders_and_files_that_cannot_be_used(files, message, tmp_path, capsys):
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif isinstance(content, dict):
            torch.save(content, tmp_path / name)
        else:
            (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        _ = open_source(tmp_path).pretrained
    assert "\n" not in str(caught.value) and "run!" not in capsys.readouterr().out


def test_composing_leaves_the_running_scripts_configuration_alone():
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        config = composed_config("encoder=vit_small", encoder__image__name="other", encoder__text__context_length=9)
        assert GlobalHydra.instance().hydra is before
    assert (config.encoder.image.name, config.encoder.text.context_length) == ("other", 9)
    assert config.name == "published"


def test_hub_ids_have_two_parts_and_perhaps_a_file():
    ids = ("org/name", "hf-hub:x", "org/na.me-1_b", "o/n/folder/model.safetensors")
    assert all(hub.is_hub_id(word) for word in ids)
    assert not any(hub.is_hub_id(word) for word in ("name", "/org/name", "./name", "../x", "a/b/c", "a b/c", "~/name"))
