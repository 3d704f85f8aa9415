"""Connections that ask nothing are closed: there is room for a number of them, and a stranger could hold all.

uvicorn waits without end for the first request of a connection, and for one that arrives byte by byte. That takes no
token, so other machines could keep everybody out.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS = 15.0  # that a connection may be without a request, at most twice as long


class Connection(H11Protocol):
    """uvicorn's connection, closed when it was without a request for `SECONDS`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection at regular times."""
        super().connection_made(transport)
        self._answered_before: object = None  # the last request when it was looked at before; None: there was none
        self._timer = self.loop.call_later(SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Look at it no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self._answered_before is self.cycle:
            self.transport.close()
            return
        self._answered_before = self.cycle if answered else self
        self._timer = self.loop.call_later(SECONDS, self._look)
