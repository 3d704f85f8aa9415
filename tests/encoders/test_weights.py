"""Weight files as people have them: read whole, or refused in one line."""

import argparse
import functools
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

import meru.encoders.image
from meru.encoders.image import timm_image_encoder
from meru.encoders.pretrained_clip import _load, clip_image_encoder, clip_text_encoder
from meru.encoders.weights import fit, load_weights, read_weights
from meru.errors import UserError

TINY_VIT = {"patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4}


@pytest.fixture(scope="module")
def network():
    """timm's whole network, with its classifier."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()


@pytest.fixture
def said(caplog):
    logging.getLogger("meru").propagate = True
    caplog.set_level(logging.INFO, logger="meru")
    return caplog


def behind(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def tower(path):
    return timm_image_encoder(name="test_resnet", image_size=64, weights=str(path)).network.state_dict()


def assert_same(loaded, network):
    weights = network.state_dict()
    assert loaded and not [name for name in loaded if not torch.equal(loaded[name], weights[name])]


def other(weights):
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


WRAPPED = {
    "timm's own": lambda w: w,
    "data parallel": lambda w: behind("module.", w),
    "compiled in parallel": lambda w: behind("module._orig_mod.", w),
    "Lightning": lambda w: {"state_dict": behind("model.backbone.", w), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "DINO": lambda w: {"student": behind("module.backbone.", other(w)), "teacher": behind("backbone.", w)},
    "DINO, flat": lambda w: behind("student.backbone.", other(w)) | behind("teacher.backbone.", w),
    "an average": lambda w: {"state_dict": other(w), "state_dict_ema": w},
    "nested": lambda w: {"model": {"net": {"params": w}}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "a key of one's own": lambda w: {"my tower": w, "epoch": 3},
    "an image-text model": lambda w: {"model": behind("visual.", w) | {"logit_scale": torch.ones(())}},
    "half": lambda w: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in w.items()},
    "no counters": lambda w: {name: tensor for name, tensor in w.items() if "num_batches" not in name},
    "not only tensors": lambda w: {
        "model": w,
        "args": argparse.Namespace(lr=0.1, output=Path("runs")),
        "best": np.float64(81.5),
        "curve": np.arange(3.0),
        "schedule": functools.partial(torch.nn.LayerNorm, eps=1e-6),
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tower_is_read_from_checkpoints_of_any_trainer(kind, zipped, network, tmp_path):
    torch.save(WRAPPED[kind](network.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    loaded = tower(tmp_path / "w.pth")
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in loaded.values())
    if kind == "half":
        torch.testing.assert_close(loaded["conv1.0.weight"], network.state_dict()["conv1.0.weight"], atol=1e-3, rtol=0)
    elif kind == "no counters":
        assert torch.equal(loaded["bn1.weight"], network.bn1.weight)
    else:
        assert_same(loaded, network)


def test_whole_models_and_torchscript_are_read_without_their_code(network, tmp_path, recwarn):
    torch.save(network, tmp_path / "whole.pt")
    torch.save({"ema": network}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.trace(network, torch.zeros(1, 3, 32, 32)).save(tmp_path / "traced.pt")
    recwarn.clear()
    for name in ("whole.pt", "legacy.pt", "traced.pt"):
        assert_same(tower(tmp_path / name), network)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "checkpoint.pth"])
def test_a_folder_leads_to_the_file_in_it(name, network, tmp_path):
    weights = network.state_dict()
    save_file(weights, tmp_path / name) if name.endswith("safetensors") else torch.save(weights, tmp_path / name)
    assert_same(tower(tmp_path), network)


def test_parts_named_by_an_index_are_read_together(network, tmp_path):
    weights = network.state_dict()
    names = list(weights)
    save_file({name: weights[name] for name in names[:20]}, tmp_path / "a.safetensors")
    save_file({name: weights[name] for name in names[20:]}, tmp_path / "b.safetensors")
    rows = ", ".join(f'"{name}": "{"ab"[index >= 20]}.safetensors"' for index, name in enumerate(names))
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{rows}}}}}')
    assert_same(tower(tmp_path), network)


def test_the_content_counts_and_not_the_ending(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "w.bin")
    torch.save(network.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert_same(tower(tmp_path / name), network)


def test_what_was_taken_and_what_was_left_out_is_said_once(network, tmp_path, said):
    torch.save({"state_dict": {}, "teacher": behind("backbone.", network.state_dict())}, tmp_path / "w.pth")
    tower(tmp_path / "w.pth")
    assert said.messages == [
        "encoder.image.weights: took teacher of w.pth",
        "encoder.image.weights: weights under backbone. loaded; left out: fc",
    ]
    said.clear()
    torch.save({"model": {k: v for k, v in network.state_dict().items() if not k.startswith("fc")}}, tmp_path / "w.pth")
    tower(tmp_path / "w.pth")
    assert said.messages == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("module.layer4.0.conv1.weight"), "under the prefix module. it lacks layer4.0.conv1.weight"),
        (lambda w: w.update({"module.layer4.9.conv1.weight": torch.ones(1)}), "it also holds layer4.9.conv1.weight"),
        (lambda w: w.update({"module.norm_pre.weight": torch.ones(1)}), "it also holds norm_pre.weight"),
        (lambda w: w.update({"module.bn1.weight": torch.ones(3)}), r"its bn1.weight has shape \(3,\) instead of"),
        (lambda w: w["module.bn1.weight"].fill_(float("nan")), "values of bn1.weight that are not finite"),
        (lambda w: w.update({"module.bn1.weight": w["module.bn1.weight"].to(torch.int8)}), "not quantized"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change, message, network, tmp_path):
    weights = {name: tensor.clone() for name, tensor in behind("module.", network.state_dict()).items()}
    change(weights)
    path = tmp_path / "w.pth"
    torch.save(weights, path)
    empty = timm.create_model("test_resnet", num_classes=0)
    before = {name: tensor.clone() for name, tensor in empty.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(empty, path, what="encoder.image.weights", surplus=["fc"])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in empty.state_dict().items())


def test_names_of_another_library_are_shown(tmp_path):
    torch.save({"vit.encoder.layer.0.output.dense.weight": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="begin with vit.encoder.layer.0.output.dense.weight, as in Hugging Face's"):
        tower(tmp_path / "w.pth")


def test_a_whole_model_takes_nothing_but_its_own_names():
    module = torch.nn.Linear(2, 1)
    weights = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    fit(module, behind("module.", weights), source="f", what="encoder.init")
    assert torch.equal(module.weight.detach(), weights["weight"])
    for surplus in ({"module.head.weight": torch.ones(1)}, {"optimizer": torch.ones(1)}):
        with pytest.raises(UserError, match="also holds"):
            fit(module, behind("module.", weights) | surplus, source="f", what="encoder.init")


class Settings:
    def __init__(self, path):
        self.path = path

    def __setstate__(self, state):
        Path(state["path"]).touch()


def test_classes_of_a_file_are_not_made(network, tmp_path):
    torch.save({"model": network.state_dict(), "settings": Settings(str(tmp_path / "marker"))}, tmp_path / "w.pth")
    assert_same(tower(tmp_path / "w.pth"), network)
    assert not (tmp_path / "marker").exists()


def test_a_changed_byte_is_said(tmp_path, said):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    read_weights(path, what="encoder.init")
    assert "the checksum of w/data/0 differs" in said.text


def as_modules(weights):
    """A module with parameters and buffers of given names."""
    root = torch.nn.Module()
    for name, tensor in weights.items():
        *way, last = name.split(".")
        module = root
        for step in way:
            if not hasattr(module, step):
                module.add_module(step, torch.nn.Module())
            module = getattr(module, step)
        module.register_buffer(last, tensor)
    return root


def test_openais_archive_gives_both_towers(small_clip, tmp_path, recwarn):
    torch.manual_seed(0)
    model = open_clip.create_model("small", force_quick_gelu=True).eval()
    sizes = {
        "input_resolution": torch.tensor(64),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    archive = {name: tensor.half() for name, tensor in model.state_dict().items()} | sizes
    path = tmp_path / "ViT-B-16.pt"
    torch.jit.script(as_modules(archive)).save(path)
    recwarn.clear()
    source = {"name": "small", "pretrained": "openai", "weights": str(path)}
    image, text = clip_image_encoder(**source), clip_text_encoder(**source)
    _load.cache_clear()
    assert not recwarn.list
    assert image.network.conv1.weight.dtype == torch.float32
    assert torch.equal(image.network.conv1.weight, model.visual.conv1.weight.half().float())
    assert torch.equal(text.network.token_embed.weight, model.token_embedding.weight.half().float())
    assert text.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-3)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."), "SOCKS proxy"),
        (type("ConnectError", (Exception,), {})("[Errno -2] Name or service not known\nand more"), "Name or service"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_download_that_fails_for_any_reason_is_one_line(error, reason, monkeypatch):
    create = timm.create_model

    def fail(*arguments, pretrained=False, **keywords):
        if pretrained:
            raise RuntimeError("An error happened while trying to locate the file on the Hub") from error
        return create(*arguments, **keywords)

    monkeypatch.setattr(meru.encoders.image.timm, "create_model", fail)
    with pytest.raises(UserError, match=f"weights of test_resnet.*{reason}") as caught:
        timm_image_encoder(name="test_resnet", image_size=64, pretrained=True)
    assert "\n" not in str(caught.value)
