"""`scripts/serve.py`: the page of a real index, and one line about what is wrong."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from meru.errors import UserError
from meru.files import PROJECT
from meru.index.building import Wanted, build_index
from meru.page import serving
from meru.runs.train import train

SCRIPT = PROJECT / "scripts" / "serve.py"
COLOURS = ["red", "blue", "green"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of six photographs by a tiny model."""
    from conftest import composed

    photos, home = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("home")
    for number in range(6):
        colour = COLOURS[number % 3]
        Image.new("RGB", (40, 30 + number), colour).save(photos / f"{colour}_{number}.png")
    config = composed(
        "experiment=own_meru", f"data.path={photos}", "data.kind=file_names", "data.test_fraction=0",
        "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "data.batch_size=3", "data.workers=0",
        "trainer.epochs=1", "logger=none", f"folder={home / 'run'}",
    )  # fmt: skip
    train(config, device=torch.device("cpu"))
    build_index(Wanted(run=str(home / "run"), images=str(photos), output=str(home / "my index"), workers=0))
    return home / "my index"


@pytest.fixture(scope="module")
def server(index):
    """Its process, which has printed its address."""
    with started(f"index={index}", "port=0") as server:
        yield server
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0


class started:
    """A server process; `address` is what it printed."""

    def __init__(self, *words):
        self.words = words

    def __enter__(self):
        command = [sys.executable, str(SCRIPT), *self.words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        line = ""
        while "search page:" not in line:
            line = self.process.stdout.readline()
            assert line, self.process.wait()
        self.line, self.address = line, urlsplit(re.search(r"http://\S+", line)[0])
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def ask(self, method, path, body=None, **headers):
        """The status and the content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.address.port, timeout=60)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_the_page_answers_on_this_machine_alone_and_without_a_token(server):
    assert server.address.hostname == "127.0.0.1" and server.address.query == ""
    status, page = server.ask("GET", "/")
    assert status == 200 and b"<!doctype html>" in page.lower()
    (entry,) = json.loads(server.ask("GET", "/api/state")[1])["indexes"]
    assert (entry["id"], entry["model"], entry["images"]) == ("my_index", "MERU", 6)


def test_a_real_index_is_searched_by_text_image_and_upload(server):
    def search(**asked):
        status, answer = server.ask("POST", "/api/search", json.dumps({"index": "my_index", "top": 6, **asked}))
        assert status == 200, answer
        return json.loads(answer)

    by_text, by_image = search(text="red", generality=0.5, cloud=True), search(image=2)
    assert len(by_text["results"]) == 6 and len(by_text["cloud"]) == 6
    assert by_image["results"][0]["image"] == 2 and by_image["path"]["met"][-1]["text"] is None
    status, thumbnail = server.ask("GET", "/api/thumbnail/my_index/2")
    assert status == 200
    upload = json.loads(server.ask("POST", "/api/upload", thumbnail)[1])["upload"]
    assert len(search(upload=upload)["results"]) == 6


def test_an_upload_that_is_said_to_be_longer_than_it_is_and_then_ends_harms_nothing(server):
    with socket.create_connection(("127.0.0.1", server.address.port)) as raw:
        raw.sendall(b"POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nshort")
    with socket.create_connection(("127.0.0.1", server.address.port)) as raw:
        raw.sendall(b"POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.address.port)) as raw:
        raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20)
    assert server.ask("GET", "/api/state")[0] == 200


def test_the_port_of_a_server_is_not_taken_by_another(server, index):
    done = refused(f"index={index}", f"port={server.address.port}")
    assert f"port={server.address.port}: cannot listen there: Address already in use" in done


def test_a_signal_ends_the_server_and_its_worker(index):
    with started(f"index={index}", "port=0", "host=0.0.0.0", "token=sixteen-characters") as server:
        assert "token=sixteen-characters" in server.line
        assert server.ask("GET", "/api/state")[0] == 401
        assert server.ask("GET", "/api/state?token=sixteen-characters", Host="any.example")[0] == 200
        children = children_of(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        rest = server.process.stdout.read()
        assert server.process.wait(timeout=60) == 0
    assert rest == "search page: ended\n"
    until = time.monotonic() + 20  # the helper of multiprocessing ends after its parent
    while (left := [pid for pid in children if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return file.read().split()
    except OSError:  # not Linux
        return []


def refused(*words):
    """The line that a server prints that does not start."""
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    return done.stderr


def test_an_index_of_another_model_is_refused_at_the_start(index, tmp_path):
    shutil.copytree(index, tmp_path / "index")
    facts = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps({**facts, "fingerprint": "another"}))
    with pytest.raises(UserError, match="was made by another model"):
        serving.serve([str(tmp_path / "index")], port=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["port=8080"], "index= is missing: give the folder of an index"),
        (["index=nowhere"], "index=nowhere: there is no such folder"),
        (["index=.,nowhere"], "index=nowhere: there is no such folder"),
        (["index=,"], "index= is missing"),
        (["index=.", "port=65536"], "port=65536: give a whole number from 0 to 65535"),
        (["index=.", "port=http"], "port=http: give a whole number"),
        (
            ["index=.", "hosts=x"],
            "'hosts=x': expected key=value with one of index, host, port, token, hide_heads; did you mean host=",
        ),
        (["index=.", "token=short"], "token: give at least 16 letters"),
        (["index=.", "host=256.1.1.1"], "host=256.1.1.1"),
        (["index=.", "port=0"], "no index: index.json is missing"),
    ],
)
def test_wrong_words_are_one_line(words, message, warm_python, tmp_path):
    done = subprocess.run([warm_python, SCRIPT, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_several_indexes_are_named_differently(tmp_path):
    folders = [tmp_path / "a" / "birds", tmp_path / "b" / "birds", tmp_path / "鳥 1", tmp_path / "birds_2"]
    assert serving.identifiers(list(map(str, folders))) == ["birds", "birds_2", "_1", "birds_2_2"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.8.8.8", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.4", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_only_addresses_of_this_machine_need_no_token(host, expected):
    assert serving.is_loopback(host) is expected


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match="the search page needs uvicorn: pip install starlette uvicorn"):
        serving.serve(["index"])


def test_an_address_is_written_as_browsers_take_it():
    assert serving.address("::1", 80, None) == "http://[::1]:80/"
    assert serving.address("0.0.0.0", 80, "t") == f"http://{socket.gethostname()}:80/?token=t"
