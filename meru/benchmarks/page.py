"""Latency and memory of the search page under load: a server in a process of its own, and clients in threads."""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from meru.errors import UserError
from meru.files import user_path
from meru.reports.tables import markdown_table

WORDS = ("red", "small", "white", "long", "blue", "striped", "dark", "yellow", "large", "spotted", "grey", "green")
_SERVER = (
    "import sys; from meru.stopping import follow_parent; from meru.page.serving import serve; "
    "follow_parent(); serve([sys.argv[1]], port=0)"
)
_STARTING_SECONDS = 300


class Answer(NamedTuple):
    """The status of an answer, and the seconds until it was read."""

    status: int
    seconds: float


class Server:
    """A server of the page in a process of its own, at a free port.

    Args:
        index: The folder of an index.

    Raises:
        UserError: if it does not start; the message is the server's.
    """

    def __init__(self, index: Path):
        command = [sys.executable, "-c", _SERVER, str(index)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
            last = (self.process.stderr.read().strip() or "it ended").splitlines()[-1]
            raise UserError(f"index={index}: the server does not start: {last}", exit_code=1)
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[Answer, bytes]:
        """The answer to a request on a connection of its own."""
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_STARTING_SECONDS)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return Answer(answer.status, time.perf_counter() - start), content

    def resident(self) -> float | None:
        """Resident memory of the server in MiB, without that of its worker; None where the system does not tell."""
        status = Path(f"/proc/{self.process.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text("ascii")) if status.exists() else None
        return int(found[1]) / 1024 if found else None

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.communicate()


def report(index: str, clients: int, requests: int, repeats: int, device: str) -> str:
    """Latency by kind of request, with one client and with `clients` at once, and the memory before and after.

    Args:
        index: The folder of an index whose model embeds texts; also written `index=FOLDER`.
        clients: Clients that send their requests at the same moment.
        requests: Requests that a single client sends one after the other.
        repeats: Rounds of all clients at once.
        device: Only `cpu`: the server takes what it finds.
    """
    folder = user_path(index.removeprefix("index="))
    server = Server(folder)
    try:
        (entry,) = json.loads(server.ask("GET", "/api/state")[1])["indexes"]
        if not entry["has_text"]:
            raise UserError(f"index={folder}: its model embeds no texts: give an index whose model does")
        kinds = _kinds(server, entry)
        before = server.resident()
        rows = []
        for name, ask in kinds.items():
            ask(0)
            rows.append([name, "1", *_summary([ask(number) for number in range(1, requests + 1)])])
            for_all = [_at_once(ask, clients, first=1_000 * (1 + round_)) for round_ in range(repeats)]
            rows.append([name, f"{clients}", *_summary([answer for answers in for_all for answer in answers])])
        after = server.resident()
    finally:
        server.close()
    table = markdown_table(["request", "clients at once", "answered", "503", "p50", "p95", "slowest"], rows)
    memory = (
        "" if before is None else f" Resident memory of the server: {before:.0f} MiB before, {after:.0f} MiB after."
    )
    return (
        f"{entry['images']:,} images, {entry['model']}; a single client sends {requests} requests one after the other, "
        f"{clients} clients one each at the same moment, {repeats} times. Times until the last byte of the answer, "
        f"clients on the same machine.{memory}\n\n{table}"
    )


def _kinds(server: Server, entry: dict) -> dict[str, Callable[[int], Answer]]:
    """Requests by their name: functions of a number that makes them differ."""

    def search(**asked: object) -> Answer:
        body = json.dumps({"index": entry["id"], "top": 20, **asked}).encode()
        return server.ask("POST", "/api/search", body)[0]

    def text(number: int) -> Answer:
        words = (WORDS[number // len(WORDS) ** power % len(WORDS)] for power in range(4))
        return search(text=f"a {' '.join(words)} one, number {number}")

    def slider(number: int) -> Answer:
        return search(text="a small one", generality=number % 100 / 100)

    def thumbnail(number: int) -> Answer:
        return server.ask("GET", f"/api/thumbnail/{entry['id']}/{7 * number % entry['images']}")[0]

    return {
        "a new text": text,
        "the slider moves": slider,
        "an image of the index": lambda number: search(image=7 * number % entry["images"]),
        "a small image": thumbnail,
    }


def _at_once(ask: Callable[[int], Answer], clients: int, *, first: int) -> list[Answer]:
    """The answers to requests that so many threads send at the same moment."""
    together = threading.Barrier(clients)

    def one(number: int) -> Answer:
        together.wait()
        return ask(first + number)

    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(one, range(clients)))


def _summary(answers: list[Answer]) -> list[str]:
    """Cells of a row: answered, refused as too many, and times of those answered."""
    seconds = sorted(answer.seconds for answer in answers if answer.status == 200)
    busy = sum(answer.status == 503 for answer in answers)
    if others := {answer.status for answer in answers} - {200, 503}:
        raise UserError(f"the server answered with {', '.join(map(str, sorted(others)))}: see its output", exit_code=1)
    times = [statistics.median(seconds), seconds[int(0.95 * (len(seconds) - 1))], seconds[-1]] if seconds else []
    return [str(len(seconds)), str(busy), *(f"{1000 * each:.0f} ms" for each in times)]
