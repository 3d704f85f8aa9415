"""Where shards are, how many samples they hold, and what may be wrong with them."""

import http.server
import shutil
import socket
import tarfile
import threading

import pytest
from shard_files import picture, write_shards, write_tar

from meru.data.shards.extracted import extracted
from meru.data.shards.load import load_shards
from meru.data.shards.places import Shard, count_samples, counted, shard_urls
from meru.data.shards.tars import Fields, samples_in
from meru.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_counting_agrees_with_reading(tmp_path):
    samples = {
        "a/1": {"jpg": picture(), "txt": "x"},
        "a/2": {"txt": "no image"},
        "a/3": {"JPG": picture(), "seg.png": picture()},
        "4": {"png": picture(), "jpg": picture()},
        "__meta__/5": {"jpg": picture()},
    }
    path = str(write_tar(tmp_path / "a.tar", samples))
    read = list(samples_in(path, Fields()))
    assert count_samples(path, Fields()) == len(read) == 3
    compressed = tmp_path / "a.tar.gz"
    with tarfile.open(compressed, "w:gz") as tar:
        tar.add(path, "inner.jpg")
    assert count_samples(str(compressed), Fields()) == 1
    (inner,) = samples_in(str(compressed), Fields())
    assert inner.files["jpg"] == (tmp_path / "a.tar").read_bytes()


@pytest.mark.parametrize("source", ["sizes.json", "stats", "key"])
def test_numbers_of_samples_are_read_from_files(tmp_path, source):
    url = str(write_tar(tmp_path / "00000.tar", {"1": {"jpg": b"", "txt": "x"}}))
    given = None
    if source == "stats":
        (tmp_path / "00000_stats.json").write_text('{"count": 9, "successes": 8}')
    else:
        path = tmp_path / ("sizes.json" if source == "sizes.json" else "other.json")
        path.write_text('{"00000.tar": 8}')
        given = str(path) if source == "key" else None
    assert counted([url], Fields(), sizes=given, on_error="raise", key="data.urls") == (Shard(url, 8),)


def test_patterns(tmp_path, monkeypatch):
    write_shards(tmp_path, sizes=(1, 1, 1))
    names = [f"{tmp_path}/0000{n}.tar" for n in range(3)]
    same = ("{00000..00002}.tar", "*.tar", "00000.tar::0000[12].tar", ".", f"file:{names[0]}::0000{{1,2}}.tar")
    for pattern in same:
        assert list(shard_urls(pattern, root=tmp_path, key="data.urls")) == names
    monkeypatch.setenv("MERU_TRUST", "mine,pipe")
    urls = ("http://x.org/{0..1}.tar", "pipe:cat a.tar")
    assert shard_urls("::".join(urls), root=tmp_path, key="k") == ("http://x.org/0.tar", "http://x.org/1.tar", urls[1])


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("no*.tar", "no shard matches"),
        ("{00000..00004}.tar", "2 of 5 shards do not exist, the first is .*00003.tar"),
        ("00000.tar::*.tar", "00000.tar is named twice"),
        ("{00000..00002.tar", "brace is not closed"),
        ("pipe:cat 00000.tar", "runs a shell command"),
        ("s3://bucket/00000.tar", "s3: is not read"),
    ],
)
def test_wrong_patterns_are_refused_in_one_line(tmp_path, pattern, message):
    write_shards(tmp_path, sizes=(1, 1, 1))
    with pytest.raises(UserError, match=message) as error:
        shard_urls(pattern, root=tmp_path, key="data.urls")
    assert str(error.value).startswith(f"data.urls={pattern.partition('::')[0][:4]}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [700, 3000])
def test_a_truncated_tar(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", {f"{n}": {"png": picture(), "txt": n} for n in range(6)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"shard .*a\.tar is not a whole tar file .*fetch it again"):
        count_samples(str(path), Fields())
    with pytest.raises(UserError, match=r"shard .*a\.tar cannot be read"):
        list(samples_in(str(path), Fields()))
    assert count_samples(str(path), Fields(), on_error="skip") == cut // 2048 + 1


def test_what_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_text("<html>not found</html>" * 100)
    with pytest.raises(UserError, match="cannot be read at its start"):
        load_shards(root=tmp_path, urls="a.tar")


def test_tars_without_images_or_captions(tmp_path):
    write_tar(tmp_path / "a.tar", {"1": {"txt": "x"}})
    with pytest.raises(UserError, match="no image with a caption"):
        load_shards(root=tmp_path, urls="a.tar")
    with pytest.raises(UserError, match="holds no image"):
        counted([f"{tmp_path}/a.tar"], Fields(), sizes=None, on_error="raise", key="data.urls")


def test_addresses_need_known_sizes():
    with pytest.raises(UserError, match="http://x/0.tar is not known.*data.sizes"):
        counted(["http://x/0.tar"], Fields(), sizes=None, on_error="raise", key="data.urls")


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    """Of a server without any shard."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not shutil.which("curl"), reason="addresses are read with curl")
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_shard_that_a_server_lacks_names_its_answer(address, on_error, tmp_path):
    url = f"{address}/00000.tar"
    with pytest.raises(UserError, match="404") as caught:
        extracted([url], fields=Fields(), key="data.urls", cache=str(tmp_path), on_error=on_error)
    assert url in str(caught.value) and "empty" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not shutil.which("curl"), reason="addresses are read with curl")
def test_a_server_that_is_not_there_and_a_command_that_fails_are_named(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/00000.tar"
    with pytest.raises(UserError, match=r"00000.tar cannot be read at its start \(curl: .*onnect.*\)"):
        list(samples_in(url, Fields()))
    with pytest.raises(UserError, match=r"cannot be read at its start \(.*nothing.*\): check the address"):
        list(samples_in(f"pipe:cat {tmp_path}/nothing.tar", Fields()))


def test_samples_are_read_through_a_pipe(tmp_path):
    write_tar(tmp_path / "a.tar", {"0": {"jpg": picture(), "txt": "a bird"}})
    (sample,) = samples_in(f"pipe:cat '{tmp_path / 'a.tar'}'", Fields())
    assert sample.files == {"jpg": picture(), "txt": b"a bird"}
