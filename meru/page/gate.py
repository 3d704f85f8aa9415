"""Bounds what the server does at once: a few threads, and a queue before them that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request

from meru.page.answers import Refused

Result = TypeVar("Result")
RETRY_SECONDS = "2"


class Gate:
    """Runs functions in `workers` threads; at most `waiting` others wait, in order, and more are refused.

    Used from one event loop.
    """

    def __init__(self, workers: int, waiting: int, name: str):
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix=name)
        self._free = asyncio.Semaphore(workers)
        self._workers, self._most, self._inside = workers, waiting, 0

    async def run(self, request: Request, function: Callable[..., Result], *arguments: object) -> Result:
        """The result of `function(*arguments)`, computed in a thread when one is free.

        Raises:
            Refused: 503 if too many wait already; 499, which nobody reads, if the client has left meanwhile.
        """
        if self._inside >= self._workers + self._most:
            message = f"the server is busy: {self._most} requests wait already; try again in {RETRY_SECONDS} s"
            raise Refused(503, message, {"retry-after": RETRY_SECONDS})
        self._inside += 1
        try:
            async with self._free:
                if await request.is_disconnected():
                    raise Refused(499, "the client has left")
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            self._inside -= 1

    def close(self) -> None:
        """Start nothing any more; what runs already ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
