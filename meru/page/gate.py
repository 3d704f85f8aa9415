"""Bounds what the server does at once: a few threads, and a queue before them that ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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
        self._most, self._inside = workers + waiting, 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Take one of the places, those in threads and those in the queue together.

        Raises:
            Refused: 503 if all are taken.
        """
        if self._inside >= self._most:
            message = f"the server is busy with {self._inside} such requests: try again in {RETRY_SECONDS} s"
            raise Refused(503, message, {"retry-after": RETRY_SECONDS})
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run_inside(self, request: Request, function: Callable[..., Result], *arguments: object) -> Result:
        """The result of `function(*arguments)`, computed in a thread when one is free, for who has a place.

        Raises:
            Refused: 499, which reaches no one, if the client has left meanwhile.
        """
        async with self._free:
            if await request.is_disconnected():
                raise Refused(499, "the client has left")
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def run(self, request: Request, function: Callable[..., Result], *arguments: object) -> Result:
        """Both: take a place, and run the function there."""
        async with self.place():
            return await self.run_inside(request, function, *arguments)

    def close(self) -> None:
        """Start nothing any more; what runs already ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)
