import hashlib
import http.server
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meru.data import preparing
from meru.data.datasets.person_search import read_splits

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def run(prepare_data):
    """Call the script: exit code, standard output, standard error."""
    return prepare_data


@pytest.fixture
def archive(make_cub_folder, tmp_path, monkeypatch):
    """An archive like the official one, on a server of this machine."""
    folder = make_cub_folder("official/CUB_200_2011", captions=False)
    (folder / "attributes" / "attributes.txt").rename(folder.parent / "attributes.txt")
    path = tmp_path / "served" / "CUB.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder.parent / "attributes.txt", "attributes.txt")
        tar.add(folder, "CUB_200_2011")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=path.parent))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(preparing, "ARCHIVE", f"http://127.0.0.1:{server.server_port}/CUB.tgz?download=1")
    monkeypatch.setattr(preparing, "ARCHIVE_MD5", hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    yield path
    server.shutdown()
    server.server_close()


def test_report_of_a_good_folder(run, cub_folder):
    code, out, err = run("cub", "--root", cub_folder)
    assert (code, err) == (0, "")
    for text in ("3\n", "12 for training, 6 for the test (a subset", "10 for 18 images", "every image decodes"):
        assert text in out
    assert f"bash train_cub.sh meru data.root={cub_folder}" in out


def test_without_captions_it_says_how_to_get_them(run, make_cub_folder):
    folder = make_cub_folder(captions=False)
    code, out, _ = run("cub", "--root", folder)
    assert code == 0
    assert "https://github.com/reedscot/cvpr2016" in out
    assert str(folder / "text_c10") in out


def test_other_numbers_of_captions_are_reported(run, make_cub_folder):
    folder = make_cub_folder()
    next((folder / "text_c10").rglob("*.txt")).write_text("a bird\n")
    code, out, _ = run("cub", "--root", folder)
    assert code == 0
    assert "1 for 1 images, 10 for 17 images" in out


def test_a_folder_without_test_is_ready_and_it_is_said(run, make_cub_folder, monkeypatch):
    folder = make_cub_folder("home/CUB_200_2011")
    path = folder / "train_test_split.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n"))
    monkeypatch.setenv("HOME", str(folder.parent))
    code, out, err = run("cub", "--root", "~/CUB_200_2011")
    assert (code, err) == (0, "")
    assert "18 for training, 0 for the test" in out and "without test images" in out and str(folder) in out


def test_images_that_are_too_large_are_listed_with_the_key(run, make_cub_folder):
    folder = make_cub_folder(classes=1)
    code, out, err = run("cub", "--root", folder, "--maximum-pixels", "40")
    assert code == 1 and "6 of 6 images do not decode" in err
    assert out.count("has 64 × 48 pixels, above data.maximum_pixels=40") == 6
    assert run("cub", "--root", folder, "--maximum-pixels", "3000")[0] == 0  # decoded at half their size


def test_unreadable_images_are_listed(run, make_cub_folder):
    folder = make_cub_folder()
    broken = sorted((folder / "images").rglob("*.jpg"))[4:6]
    for path in broken:
        path.write_bytes(b"no picture")
    code, out, err = run("cub", "--root", folder)
    assert code == 1
    assert all(str(path) in out for path in broken)
    assert err.startswith("error: 2 of 18 images do not decode") and err.count("\n") == 1


def test_missing_files_are_one_line(run, make_cub_folder, tmp_path):
    folder = make_cub_folder()
    (folder / "train_test_split.txt").unlink()
    for root, expected, wanted in [(folder, "train_test_split.txt", 1), (tmp_path / "nowhere", "data=birds", 2)]:
        code, _, err = run("cub", "--root", root)
        assert code == wanted
        assert expected in err and err.count("\n") == 1


def test_wrong_usage(run):
    for arguments in ((), ("dogs",), ("cub", "--nonsense")):
        code, _, err = run(*arguments)
        assert code == 2
        assert "usage" in err


def test_help_imports_nothing_heavy():
    program = (
        f"import runpy, sys; sys.argv = ['', '--help']; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    watch = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, 'numpy' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", f"{watch}\n{program}"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "cub --download" in result.stdout
    assert result.stdout.endswith("False False\n")


def test_download(run, archive, tmp_path):
    root = tmp_path / "new" / "CUB_200_2011"
    left = root.parent / f".CUB_200_2011-{re.sub('[^A-Za-z0-9]', '_', socket.gethostname())[:40]}-999999999-x"
    left.mkdir(parents=True)  # a download that was killed
    code, out, _ = run("cub", "--root", root, "--download")
    assert code == 0
    assert "12 for training" in out and "of 3 classes" in out
    assert (root / "attributes" / "attributes.txt").is_file()
    assert list(root.parent.iterdir()) == [root]
    code, out, _ = run("cub", "--root", root, "--download")
    assert code == 0 and "nothing to download" in out


@pytest.mark.parametrize("trouble", ["checksum", "truncated", "absent"])
def test_failed_download_leaves_nothing(run, archive, tmp_path, trouble):
    whole = archive.read_bytes()
    if trouble == "absent":
        archive.unlink()
    else:
        archive.write_bytes(whole[:-9] if trouble == "truncated" else whole[:-9] + bytes(9))
    root = tmp_path / "new" / "CUB_200_2011"
    code, _, err = run("cub", "--root", root, "--download")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: download of http://127.0.0.1")
    assert "Traceback" not in err
    assert list(root.parent.iterdir()) == []


def test_an_interrupted_download_goes_on_where_it_stopped(run, archive, tmp_path, monkeypatch):
    whole, asked = archive.read_bytes(), []

    class Breaking(http.server.BaseHTTPRequestHandler):
        """Sends a third of the file at most, then closes the connection; after that, nothing for a while."""

        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            asked.append(start)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            is_down = 1 < len(asked) < 9
            self.wfile.write(b"" if is_down else whole[start : start + len(whole) // 3 + 1])

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(preparing, "ARCHIVE", f"http://127.0.0.1:{server.server_port}/CUB.tgz")
    try:
        root = tmp_path / "new" / "CUB_200_2011"
        part, third = root.with_name("CUB_200_2011.tgz.part"), len(whole) // 3 + 1
        code, _, err = run("cub", "--root", root, "--download")
        assert code == 1 and f"are kept in {part}, the same command goes on from there" in err
        assert err.count("\n") == 1
        assert part.read_bytes() == whole[:third] and list(root.parent.iterdir()) == [part]
        asked += [third] * 9  # the server is up again
        done = len(asked)
        code, out, _ = run("cub", "--root", root, "--download")
        assert code == 0 and "12 for training" in out
        assert asked[done:] == [third, 2 * third] and list(root.parent.iterdir()) == [root]
    finally:
        server.shutdown()
        server.server_close()


def test_a_complete_download_that_was_not_unpacked_is_not_fetched_again(run, archive, tmp_path):
    root = tmp_path / "new" / "CUB_200_2011"
    root.parent.mkdir()
    shutil.copy(archive, root.with_name("CUB_200_2011.tgz.part"))
    archive.write_bytes(b"")  # the server has nothing more to give
    code, out, _ = run("cub", "--root", root, "--download")
    assert code == 0 and "12 for training" in out


def test_download_never_touches_another_folder(run, archive, tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "thesis.tex").write_text("…")
    code, _, err = run("cub", "--root", root, "--download")
    assert code == 1 and "not a CUB folder" in err
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


def test_birds_are_drawn_by_the_data_set(run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(preparing, "draw_birds", lambda root, *, seed: calls.append((root, seed)) or root)
    code, out, _ = run("birds", "--root", tmp_path / "birds", "--seed", 3)
    assert code == 0 and calls == [(tmp_path / "birds", 3)]
    assert f"data=birds data.root={tmp_path / 'birds'}" in out


def test_pedestrians_are_drawn_by_the_data_set(run, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(preparing, "draw_pedestrians", lambda root, *, seed: calls.append((root, seed)) or root)
    root = tmp_path / "pedestrians"
    code, out, _ = run("pedestrians", "--root", root, "--seed", 3)
    assert code == 0 and calls == [(root, 3)]
    assert f"experiment=pedestrians_gahr data.root={root}" in out


def test_a_copy_as_large_as_the_published_one_is_complete(persons, monkeypatch):
    published = {"train": (2, 2, 4), "val": (1, 1, 2), "test": (1, 1, 3)}
    monkeypatch.setitem(preparing.PUBLISHED, "rstpreid", published)
    lines = dict(preparing.report_annotation("rstpreid", read_splits([persons / "data_captions.json"])))
    assert lines["train"] == "2 identities, 2 images, 4 captions (complete)"
    assert lines["val"].endswith("(complete)")
    assert lines["test"] == "1 identities, 1 images, 2 captions (published: 1 / 1 / 3)"


@pytest.fixture
def persons(tmp_path):
    """A copy of RSTPReid with four images."""
    root = tmp_path / "RSTPReid"
    (root / "imgs").mkdir(parents=True)
    listed = []
    for number, split in enumerate(("train", "train", "val", "test")):
        name = f"{number}.jpg"
        Image.fromarray(np.full((16, 8, 3), 60 * number, np.uint8)).save(root / "imgs" / name)
        listed.append({"id": number, "split": split, "img_path": name, "captions": ["A man.", "He wears red."]})
    (root / "data_captions.json").write_text(json.dumps(listed), encoding="utf-8")
    return root


def test_persons_are_counted_beside_what_was_published(run, persons):
    code, output, _ = run("rstpreid", "--root", persons)
    assert code == 0
    assert "annotation  data_captions.json" in output
    assert "2 identities, 2 images, 4 captions (published: 3,701 / 18,505 / 37,010)" in output
    assert "4 identities with a single image" in output
    assert "every image decodes" in output
    assert f"experiment=rstpreid_gahr data.root={persons}" in output


def test_persons_that_are_missing_or_broken(run, persons, tmp_path):
    code, _, error = run("cuhk_pedes", "--root", tmp_path / "nowhere")
    assert code == 2 and "on request by e-mail" in error
    (persons / "imgs" / "1.jpg").write_bytes(b"no picture")
    code, output, error = run("rstpreid", "--root", persons)
    assert code == 1 and "1 of 4 images do not decode" in error and "2 identities" in output
    # the annotation alone tells: no picture is needed to count it, or to say what is wrong with it
    shutil.rmtree(persons / "imgs")
    code, output, error = run("rstpreid", "--root", persons)
    assert code == 1 and "2 identities, 2 images, 4 captions" in output
    assert "absent (4 of 4 images are)" in error and "NjtechCVLab/RSTPReid-Dataset" in error
    assert error.count("\n") == 1
    listed = json.loads((persons / "data_captions.json").read_text())
    del listed[2]["captions"]
    (persons / "data_captions.json").write_text(json.dumps(listed))
    code, _, error = run("rstpreid", "--root", persons)
    assert code == 1 and "entry 3 has no field captions" in error
