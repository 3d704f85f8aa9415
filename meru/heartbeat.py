"""Notices when another process of the group is gone, and ends this one with a line that names it.

A process that is killed leaves the others waiting in a collective: gloo tells them, NCCL does not until its timeout,
and torchrun ends only the processes of its own machine. So every process writes a number to the group's store every two
seconds. The main process watches the numbers of all, and the others watch that of the main one. A process that fails
for a reason of its own leaves the reason in the store.

Silence is counted in beats of the watching process rather than in seconds, because a job may be suspended as a whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

BEAT = 2.0  # seconds
SILENCE = 20  # beats after which a process is taken to be gone: long file operations may delay one
LOST = 3  # beats of silence that explain a broken connection
_FAILED, _DONE = "failed", "done"


class Heartbeat:
    """The beats of this process, and the watch over those of others.

    Args:
        store: A connection of its own, because another one may be waiting for an answer.
        rank, size: This process, and the number of processes.
        name: This process's name for people, such as `rank 3 on node7`.
        holder: The process that holds the store, which is gone when the store is.
        end: Called in another thread with the reason when the group is broken; does not return.
    """

    def __init__(
        self, store: Store, *, rank: int, size: int, name: str, holder: str, end: Callable[[str], None]
    ):
        self.store, self.rank, self.size, self.name, self.end = store, rank, size, name, end
        self.no_store = f"the store of the group is gone: {holder}, which holds it, was killed or cannot be reached"
        self.over, self.count = threading.Event(), 0
        self.silent: dict[int, tuple[bytes, int]] = {}
        store.set(f"name/{rank}", name)
        store.set(f"beat/{rank}", "0")
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, when all processes have been made: their first beats are in the store."""
        self.thread.start()

    def say(self, reason: str) -> None:
        """Leave the reason why this process fails, for the others, unless one of them has left one."""
        if not self.over.is_set():
            with suppress(RuntimeError):  # the store is gone, and the others know
                self.store.compare_set(_FAILED, "", f"{self.name}: {reason}")

    def stop(self) -> None:
        """End the watch because this process has finished. The main one, which may hold the store, waits for all."""
        self.over.set()
        try:
            self.store.set(f"beat/{self.rank}", _DONE)
            until = time.monotonic() + SILENCE * BEAT
            while self.rank == 0 and any(value != _DONE.encode() for value in self._beats(range(1, self.size))):
                if time.monotonic() > until:
                    return
                time.sleep(0.05)
        except RuntimeError:
            pass

    def lost(self) -> str | None:
        """After a broken connection: the reason that another process left, or the name of one without beats."""
        try:
            return self._silent_one()
        except RuntimeError:
            return self.no_store

    def _silent_one(self) -> str | None:
        until = time.monotonic() + 2 * LOST * BEAT
        seen: dict[int, tuple[bytes, float]] = {}
        while time.monotonic() < until:
            if self.store.check([_FAILED]):
                return self.store.get(_FAILED).decode()
            for rank, value in self._all_beats().items():
                if value == _DONE.encode() or value != seen.get(rank, (None,))[0]:
                    seen[rank] = value, time.monotonic()
                elif time.monotonic() - seen[rank][1] > LOST * BEAT:
                    return self._gone(rank)
            time.sleep(0.1)
        return None

    def _run(self) -> None:
        while not self.over.wait(BEAT):
            try:
                self.count += 1
                self.store.set(f"beat/{self.rank}", str(self.count))
                reason = self._broken()
            except RuntimeError:
                reason = self.no_store
            if reason and not self.over.is_set():
                self.end(reason)
                return

    def _broken(self) -> str | None:
        if self.store.check([_FAILED]):
            return self.store.get(_FAILED).decode()
        watched = list(range(1, self.size)) if self.rank == 0 else [0]
        for rank, value in zip(watched, self._beats(watched), strict=True):
            last, beats = self.silent.get(rank, (b"", 0))
            beats = beats + 1 if value == last and value != _DONE.encode() else 0
            self.silent[rank] = value, beats
            if beats >= SILENCE:
                return self._gone(rank)
        return None

    def _all_beats(self) -> dict[int, bytes]:
        others = [rank for rank in range(self.size) if rank != self.rank]
        return dict(zip(others, self._beats(others), strict=True))

    def _beats(self, ranks: Iterable[int]) -> list[bytes]:
        keys = [f"beat/{rank}" for rank in ranks]
        return self.store.multi_get(keys) if keys else []

    def _gone(self, rank: int) -> str:
        name = self.store.get(f"name/{rank}").decode()
        reason = f"{name} is gone: it was killed, or its machine cannot be reached"
        self.store.compare_set(_FAILED, "", reason)
        return reason


def own_name(rank: int, host: str) -> str:
    """A process's name for people."""
    return f"rank {rank} (process {os.getpid()} on {host})"
