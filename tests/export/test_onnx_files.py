"""ONNX files of both sides: the outputs of PyTorch, in any batch and length."""

import numpy as np
import onnxruntime
import pytest
import torch
from finished_runs import SMALL, make_run

import meru
from meru.errors import UserError
from meru.export import onnx_files
from meru.export.formats import export
from meru.export.sides import TextSide

CAPTIONS = ["a bird", "a small red bird with a long, pointed bill", "gull", "a white gull over the sea"]


@pytest.fixture(scope="module")
def run(compose, tmp_path_factory):
    config = compose("experiment=birds_meru", *SMALL)
    return make_run(tmp_path_factory.mktemp("runs") / "run", config)


def outputs(path, **given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    arrays = session.run(names, {name: tensor.numpy() for name, tensor in given.items()})
    return dict(zip(names, map(torch.from_numpy, arrays), strict=True))


def test_both_sides_give_the_points_of_the_model_and_their_ambient_form(run, tmp_path, caplog):
    with caplog.at_level("INFO", logger="meru"):
        export({"run": str(run), "format": "onnx", "output": str(tmp_path / "out")})
    assert "text.onnx: largest difference to PyTorch" in caplog.text
    pretrained = meru.load(run)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    tokens = pretrained.tokenizer.batch(CAPTIONS)
    with torch.no_grad():
        expected = {"image": pretrained.model.embed_image(images), "text": pretrained.model.embed_text(tokens)}
        c = pretrained.model.curvature
    found = {
        "image": outputs(tmp_path / "out" / "image.onnx", image=images),
        "text": outputs(tmp_path / "out" / "text.onnx", tokens=tokens),
    }
    for side, points in expected.items():
        torch.testing.assert_close(found[side]["embedding"], points, rtol=1e-4, atol=1e-5)
        ambient = found[side]["embedding_hyperboloid"].double()
        on_sheet = ambient[:, 1:].square().sum(-1) - ambient[:, 0].square()
        torch.testing.assert_close(on_sheet, torch.full_like(on_sheet, -1 / c.item()), rtol=1e-4, atol=1e-4)
        assert found[side]["curvature"].item() == pytest.approx(c.item(), rel=1e-6)


@pytest.mark.parametrize("model", ["clip", "meru", "meru_patches", "gahr", "hycoclip", "uncha"])
def test_the_dense_text_tower_gives_the_embeddings_of_the_packed_one(model, compose, tmp_path):
    pretrained = meru.load(make_run(tmp_path / "run", compose("experiment=birds_meru", f"model={model}", *SMALL)))
    dense, packed = (TextSide(pretrained.model, dense=dense) for dense in (True, False))
    tokens = pretrained.tokenizer.batch(CAPTIONS)
    with torch.no_grad():
        for ours, theirs in zip(dense(tokens), packed(tokens), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        alone = dense(tokens[:1, : tokens[0].argmax() + 1])
    torch.testing.assert_close(alone[0], packed(tokens)[0][:1].detach(), rtol=1e-5, atol=1e-6)


def test_a_discovery_model_gives_features_logits_and_points_of_the_ball(compose, tmp_path):
    config = compose("experiment=birds_hypgcd", "encoder.image.name=test_resnet", "encoder.image.image_size=32")
    run = make_run(tmp_path / "run", config)
    export({"run": str(run), "format": "onnx", "output": str(tmp_path / "out"), "pixels": "float"})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["image.onnx"]
    model = meru.load(run).model
    images = torch.rand(4, 3, 32, 32)
    found = outputs(tmp_path / "out" / "image.onnx", image=images)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model.predict(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found["embedding_ball"], model.embed_ball(images), rtol=1e-4, atol=1e-4)
    assert found["features"].shape[0] == 4 and found["curvature"].item() == pytest.approx(0.1)


def test_a_file_that_differs_from_pytorch_is_refused_and_removed(run, tmp_path, monkeypatch):
    class Wrong:
        def __init__(self, *_, **__):
            pass

        def run(self, names, given):
            return [np.zeros((len(next(iter(given.values()))), 1), dtype=np.float32)] * len(names)

    monkeypatch.setattr(onnx_files, "_export", lambda side, given, path, opset: path.touch())
    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with pytest.raises(UserError, match=r"image.onnx differs from PyTorch by inf, more than 1e-04: nothing"):
        export({"run": str(run), "format": "onnx", "output": str(tmp_path / "out")})
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'needs onnxscript .*: pip install onnx onnxruntime onnxscript'):
        export({"run": "x", "format": "onnx", "output": str(tmp_path / "out")})


def test_asinh_of_float64_is_spelt_out_to_the_same_values():
    x = torch.tensor([-300.0, -1.0, -1e-3, 0.0, 1e-3, 2.0, 3e4], dtype=torch.float64)
    with onnx_files._SpeltOut():
        spelt, single = torch.asinh(x), torch.asinh(x.float())
    torch.testing.assert_close(spelt, x.asinh(), rtol=1e-9, atol=1e-12)
    assert torch.equal(single, x.float().asinh())
