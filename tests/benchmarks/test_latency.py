"""The benchmark of latency loses no request, takes its percentiles from single ones, and refuses mistakes at once."""

import math
import subprocess
import sys
import threading
import time

import pytest
import torch

from meru.benchmarks import asked_latency as words
from meru.benchmarks.asked_latency import Asked, asked_latency, bytes_of_gallery
from meru.benchmarks.city import City, Rate, city_section, need_of
from meru.benchmarks.clients import Round, Server, closed_loop, percentile, summary
from meru.benchmarks.gallery import IMAGES, drawn_gallery
from meru.benchmarks.latency import EXACT, Line, Place, places_of, rates_of, report
from meru.errors import UserError
from meru.files import PROJECT
from meru.geometry.spaces import Hyperboloid, Sphere


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(200, 0.5, 100), (200, 0.99, 198), (100, 0.99, 99), (10, 0.99, 10), (1, 0.5, 1)]
)
def test_percentiles_are_nearest_ranks(count, share, expected):
    values = torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 1
    assert percentile(values.tolist(), share) == expected


def test_percentiles_are_of_single_requests_and_rates_of_rounds():
    fast, slow = Round([0.001] * 98, 1.0), Round([0.001, 0.001, 0.5], 1.0)
    assert summary([fast, slow]) == ["101", "1.0 ms", "1.0 ms", "50.5"]
    slow.seconds.append(0.4)
    assert summary([fast, slow])[2] == "400 ms"
    assert summary([slow])[2] == "500 ms (slowest of 4)"


@pytest.mark.parametrize("clients", [1, 5])
def test_a_client_waits_for_its_answer_and_no_request_is_lost(clients):
    asked, inside, most = [], [], 0
    lock = threading.Lock()

    def ask(query):
        nonlocal most
        with lock:
            inside.append(threading.get_ident())
            most = max(most, len(inside))
            assert len(set(inside)) == len(inside)
        time.sleep(0.01)
        with lock:
            inside.remove(threading.get_ident())
            asked.append(query)

    found = closed_loop(ask, range(7), clients=clients, requests=23)
    assert sorted(asked) == sorted(number % 7 for number in range(23))
    assert len(found.seconds) == 23 and min(found.seconds) >= 0.01 and most <= clients
    assert found.elapsed >= math.ceil(23 / clients) * 0.01  # a client cannot ask faster
    assert found.elapsed >= max(found.seconds) and found.rate == 23 / found.elapsed


def test_every_client_is_answered_though_the_time_is_up():
    assert len(closed_loop(lambda query: None, [0], clients=3, requests=100, seconds=0.0).seconds) == 3


def test_an_error_of_the_search_ends_all_clients():
    def search(queries):
        raise ValueError("no such gallery")

    with Server(search, most=4) as server, pytest.raises(ValueError, match="no such gallery"):
        closed_loop(server.ask, [0], clients=3, requests=10**9)


@pytest.mark.parametrize("most", [1, 4])
def test_waiting_queries_are_answered_in_their_order_up_to_so_many_at_once(most):
    first, go, scans = threading.Event(), threading.Event(), []

    def search(queries):
        scans.append(list(queries))
        first.set()
        go.wait(10)
        return [2 * query for query in queries]

    answers = {}
    with Server(search, most=most) as server:
        clients = [threading.Thread(target=lambda n=n: answers.update({n: server.ask(n)})) for n in range(6)]
        clients[0].start()
        assert first.wait(10)
        for number, client in enumerate(clients[1:], start=1):
            client.start()
            while server._waiting.qsize() < number:
                time.sleep(0.001)
        go.set()
        for client in clients:
            client.join(10)
    assert answers == {number: 2 * number for number in range(6)}
    assert scans == ([[0], [1, 2, 3, 4], [5]] if most == 4 else [[number] for number in range(6)])


@pytest.mark.parametrize("space", [Hyperboloid(1.0), Sphere()])
def test_a_gallery_is_mapped_from_files_that_are_removed(space, tmp_path):
    with drawn_gallery(space, 300, 16, 5, tmp_path) as (exact, queries):
        (folder,) = tmp_path.iterdir()
        assert sum(file.stat().st_size for file in folder.iterdir()) + 4 * 300 == bytes_of_gallery(300, 16)
        _, rows = exact.search(queries, 10)
        expected = space.similarity(queries, exact.points.clone()).topk(10).indices
        assert torch.equal(rows, expected)
        if isinstance(space, Hyperboloid):
            assert abs(float(space.radius(exact.points).median()) - IMAGES) < 0.05
    assert list(tmp_path.iterdir()) == []


def test_a_city_is_arithmetic():
    city = City(cameras=10, persons=100, days=2, queries=7200, answer=0.5)
    rates = [Rate("cores", alone=48_000, together=12_000), Rate("GPUs", alone=1e9, together=1e9)]
    need = need_of(city, 4, rates)
    assert need.points == 48_000 and need.scans == 2 and need.size == 48_000 * (4 * 4 + 2 * 4 + 4)
    assert need.parts == {"cores": 8, "GPUs": 1}  # 48,000 · 2 / 12,000; the time of an answer needs only two
    assert need_of(City(10, 100, 2, 1, 0.01), 4, rates).parts["cores"] == 100
    text = city_section(city, 4, rates)
    assert "| 2 | 48,000 | 1.3 MB | 2.00 | 8 | 1 |" in text and "Assumed, not measured" in text
    assert "overstated" in city_section(city, 4, rates, largest=999_999)
    assert "overstated" not in text + city_section(city, 4, rates, largest=1_000_000)


def test_rates_are_those_of_exact_searches_of_points():
    place = Place("1 thread", "cores", 1)

    def line(name, clients, most, rate):
        return Line(name, place, list, [0], clients, most, 1.0, rounds=[Round([1.0] * rate, 1.0)])

    lines = [line(EXACT, 8, 64, 30), line(EXACT, 1, 1, 10), line(EXACT, 8, 1, 11), line("approximate", 1, 1, 99)]
    assert rates_of(lines, 1000) == [Rate("cores", alone=10_000, together=30_000)]


def test_the_smallest_benchmark_has_every_line(tmp_path):
    asked = asked_latency([
        "rows=1000", "dimension=16", "clients=1,2", "queries=10", "rounds=1", "threads=1", "device=cpu",
        "spaces=lorentz", "tower=L1_W16_A2", f"folder={tmp_path}",
    ])  # fmt: skip
    text = report(asked)
    lines = [line.split(" | ")[:4] for line in text.splitlines() if line.startswith(("| exact", "| approximate"))]
    together = "all that wait, up to 64"
    assert [line[2:] for line in lines[:4]] == [["1", "1"], ["2", "1"], ["2", together], ["1", "1"]]
    assert lines[3][0] == "| exact, from a caption"
    assert "FAISS's ivf, which is not installed" in text or lines[4][0] == "| approximate: FAISS, ivf"
    assert "### What a camera network of a city would need, on paper" in text and list(tmp_path.iterdir()) == []


def test_threads_that_are_as_many_as_all_are_measured_once(monkeypatch):
    monkeypatch.setattr("meru.benchmarks.latency.cores_here", lambda: 4)
    assert [place.threads for place in places_of(Asked(threads=(1, "all", 4), device="cpu"))] == [1, 4]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("rows=0", "rows=0: give a whole number from 1 to"),
        ("rows=10,", "rows=: give a whole number"),
        ("clients=1,0", "clients=0: give a whole number from 1 to 1024"),
        ("queries=many", "queries=many: give a whole number"),
        ("threads=none", "threads=none: give a whole number from 1 to 1024 or all"),
        ("device=tpu", "device=tpu: give one of auto, cpu, cuda"),
        ("approximate=none,ivf", "give none alone"),
        ("spaces=flat", "spaces=flat: give one of lorentz, cosine"),
        ("seconds=nan", "seconds=nan: give a number from 0.01 to 3600"),
        ("answer=0", "answer=0: give a number above 0"),
        ("tower=ViT", "tower=ViT: give layers, width and heads like L12_W512_A8"),
        ("client=1", "did you mean clients=?"),
        ("output=latency.csv", "name it, for instance, latency.md"),
        ("folder=no/such/folder", "folder=no/such/folder: there is no such folder"),
    ],
)
def test_mistakes_are_one_line(word, says):
    with pytest.raises(UserError) as error:
        asked_latency([word])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_gallery_larger_than_the_disk_is_refused(monkeypatch, tmp_path):
    usage = words.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(words.shutil, "disk_usage", lambda folder: usage._replace(free=10**9))
    with pytest.raises(UserError, match=r"rows=10000000: a gallery needs 15.4 GB in .* 1.0 GB free"):
        asked_latency(["rows=10,10000000"])
    assert asked_latency(["rows=10"]).rows == (10,)


def test_a_mistake_is_found_before_pytorch_is_imported():
    code = (
        "import runpy, sys; sys.modules['torch'] = None\n"
        f"sys.path.insert(0, {str(PROJECT / 'scripts')!r}); sys.argv = ['benchmark.py', 'latency', 'clients=0']\n"
        f"runpy.run_path({str(PROJECT / 'scripts' / 'benchmark.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.strip() == "error: clients=0: give a whole number from 1 to 1024"
