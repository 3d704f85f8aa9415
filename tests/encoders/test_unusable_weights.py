"""Files that hold no weights, or would run code: refused in one line, and nothing in them is ever run."""

import builtins
import functools
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from meru.encoders.weights import read_weights
from meru.errors import UserError


@pytest.fixture(scope="module")
def network():
    """timm's whole network, with its classifier."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()


class Calls:
    """A pickle of it is a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def helper(path):
    Path(path).touch()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda marker: (os.system, f"touch {marker}"), f"{os.name}.system"),
        (lambda marker: (subprocess.Popen, ["touch", marker]), "subprocess.Popen"),
        (lambda marker: (subprocess.check_output, ["touch", marker]), "subprocess.check_output"),
        (lambda marker: (eval, f"open({marker!r}, 'w')"), "builtins.eval"),
        (lambda marker: (exec, f"open({marker!r}, 'w')"), "builtins.exec"),
        (lambda marker: (open, marker, "w"), "io.open"),
        (lambda marker: (builtins.getattr, Calls(__import__, "os"), "system"), "builtins.getattr"),
        (lambda marker: (functools.partial, os.mkdir, marker), f"{os.name}.mkdir"),
        (lambda marker: (shutil.rmtree, marker), "shutil.rmtree"),
        (lambda marker: (torch.save, {}, marker), "torch.serialization.save"),
        (lambda marker: (np.save, marker, 1), "numpy.save"),
        (lambda marker: (helper, marker), "test_unusable_weights.helper"),
    ],
)
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(call, name, zipped, network, tmp_path):
    marker = tmp_path / "marker"
    content = {"model": network.state_dict(), "extra": Calls(*call(str(marker)))}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"would call .*{name} when it is loaded.*do not trust it"):
        read_weights(tmp_path / "w.pth", what="encoder.init")
    assert not marker.exists()


def zipped_arrays(path):
    np.savez(path.with_suffix(".npz"), a=np.ones(3))
    path.with_suffix(".npz").rename(path)


def cut(path, keep):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (lambda p: p.write_text("<!DOCTYPE html>\n<html>"), "a web page instead of the weights"),
        (lambda p: p.write_text("\n<HTML>not found</HTML>"), "a web page instead of the weights"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(bytes(4096)), "full of zeros"),
        (lambda p: cut(p, 2000), r"truncated \(2000 bytes\)"),
        (lambda p: cut(p, 2), r"truncated \(2 bytes\)"),
        (lambda p: p.write_bytes(b"\x10\0\0\0\0\0\0\0{"), "truncated or not a weight file"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9)), "HDF5 file, of Keras"),
        (lambda p: p.write_bytes(b"\x1f\x8b\x08"), "gzip archive; unpack it"),
        (lambda p: p.write_text('{"a": 1}'), "JSON text"),
        (lambda p: p.write_text("weights"), "truncated or not a weight file"),
        (zipped_arrays, "NumPy arrays, as JAX's"),
        (lambda p: p.mkdir(), "is a folder; name the file in it, it has no weights"),
        (lambda p: torch.save({"epoch": 3}, p), "holds no state dict"),
        (lambda p: torch.save({"a": {"x": torch.ones(1)}, "b": {"x": torch.ones(1)}}, p), "a, b: save only one"),
        (lambda p: torch.save([torch.ones(1)], p), "holds no state dict"),
        (lambda p: None, "no file"),
    ],
)
def test_other_files_are_named_for_what_they_are(write, message, tmp_path):
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(UserError, match=f"encoder.init: .*{message}") as caught:
        read_weights(path, what="encoder.init")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("w.onnx", "an ONNX file"), ("w.msgpack", "a file of Flax")])
def test_files_of_other_frameworks_are_named_by_their_endings(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x07\x12")
    with pytest.raises(UserError, match=f"{message}; convert it"):
        read_weights(tmp_path / name, what="encoder.init")


def test_a_file_that_was_unpacked_is_named_with_the_way_back(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    shutil.unpack_archive(tmp_path / "w.pth", tmp_path, "zip")
    with pytest.raises(UserError, match=f"unpacked; .*cd {tmp_path} && zip -0r w.pth w"):
        read_weights(tmp_path / "w", what="encoder.init")
