"""Clients that wait for their answers (a closed loop), a server that answers them, and percentiles of single requests.

A client sends its next query when its last one is answered. The server has one worker, as a core or a GPU can do only
one scan at a time: with `most` = 1 it answers one query a scan in their order, else all that wait, up to `most`.
"""

from __future__ import annotations

import itertools
import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

ENOUGH = 100  # requests, without which the 99th percentile is only the slowest of them


class Round(NamedTuple):
    """Seconds of every request that was answered, and from the first request to the last answer."""

    seconds: list[float]
    elapsed: float

    @property
    def rate(self) -> float:
        """Queries answered in a second."""
        return len(self.seconds) / self.elapsed


class Server:
    """Answers queries of several threads in a thread of its own, while a `with` lasts.

    Args:
        search: Takes a list of queries and returns as many answers.
        most: Queries that one call gets at most.
    """

    def __init__(self, search: Callable[[list[Any]], Sequence[Any]], *, most: int):
        self.search, self.most = search, most
        self._waiting: queue.SimpleQueue[tuple[Any, Future] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    def ask(self, query: Any) -> Any:
        """The answer to a query; an error of the search is raised here."""
        answer: Future = Future()
        self._waiting.put((query, answer))
        return answer.result()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            asked = [first]
            while len(asked) < self.most:
                try:
                    after = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if after is None:
                    self._waiting.put(None)
                    break
                asked.append(after)
            self._answer(asked)

    def _answer(self, asked: list[tuple[Any, Future]]) -> None:
        try:
            found = self.search([query for query, _ in asked])
            for (_, answer), each in zip(asked, found, strict=True):
                answer.set_result(each)
        except Exception as error:  # the clients would wait for ever
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(error)


def closed_loop(
    ask: Callable[[Any], Any], queries: Sequence[Any], *, clients: int, requests: int, seconds: float = math.inf
) -> Round:
    """Send requests from several clients at once, each of which waits for its answer before it sends the next.

    Args:
        ask: Sends one query and returns when it is answered.
        queries: Taken in turn.
        clients: Threads, of which each sends at least one request unless there are fewer requests.
        requests: In all.
        seconds: After these, no client sends another request than its first.
    """
    numbers, begun, ended = itertools.count(), [0.0], threading.Event()

    def start() -> None:
        begun[0] = time.perf_counter()

    together = threading.Barrier(clients, action=start)

    def client(_: int) -> list[tuple[float, float]]:
        together.wait()
        times: list[tuple[float, float]] = []
        while not ended.is_set() and (number := next(numbers)) < requests:
            sent = time.perf_counter()
            if times and sent - begun[0] > seconds:
                break
            try:
                ask(queries[number % len(queries)])
            except BaseException:
                ended.set()
                raise
            times.append((sent, time.perf_counter()))
        return times

    with ThreadPoolExecutor(clients) as threads:
        try:
            times = [each for of_client in threads.map(client, range(clients)) for each in of_client]
        finally:
            ended.set()  # Ctrl-C need not wait for the rest
    return Round([answered - sent for sent, answered in times], max(answered for _, answered in times) - begun[0])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is at least as large as this share of all values (nearest rank, not interpolated)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def summary(rounds: Sequence[Round]) -> list[str]:
    """Cells of a table: requests, p50, p99 of every single request of all rounds, and the median rate of the rounds."""
    seconds = [each for one in rounds for each in one.seconds]
    slow = milliseconds(percentile(seconds, 0.99))
    if len(seconds) < ENOUGH:
        slow = f"{milliseconds(max(seconds))} (slowest of {len(seconds)})"
    rate = statistics.median(one.rate for one in rounds)
    return [f"{len(seconds):,}", milliseconds(percentile(seconds, 0.5)), slow, f"{rate:,.{0 if rate >= 100 else 1}f}"]


def milliseconds(seconds: float) -> str:
    """A time with two or three digits."""
    value = 1000 * seconds
    return f"{value:,.{2 if value < 1 else 1 if value < 100 else 0}f} ms"
