"""End a run on SIGTERM, on Ctrl-C, or when its parent process dies, even while the run waits.

The first signal ends a run where it is or, in training, after the current step. A second signal ends it at once.
Python's handlers run between two instructions of the main thread, so never while it waits in a collective or for a
disk. Therefore a second thread also receives the signals and ends the process if the main thread does not.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from meru import failures

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Signals this close together are one request that was delivered twice: `timeout` signals its child, then the group;
# batch systems signal torchrun, which hands the signal on, and its processes.
ONE_REQUEST = 0.5
UNHEARD = 5.0  # seconds that the main thread may take to notice
UNMOVED = 30.0  # seconds without a batch after which a stopping run is taken to be stuck before its next step
UNMOVED_BESIDE = 600.0  # the same for the processes that wait for the main one, which may be evaluating
LEAVING = 120.0  # seconds that closing files, loggers and workers may take


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _State:
    """The signals that this process has received, and its progress."""

    def __init__(self):
        self.listening = False
        self.forget()

    def forget(self) -> None:
        self.number: int | None = None  # the first signal
        self.since = 0.0
        self.heard = False
        self.at_next_step: Callable[[], object] | None = None
        self.go_on: str | None = None  # the command that resumes the run
        self.moved, self.longest = time.monotonic(), 0.0


_state = _State()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Raise `Stopped` in the main thread at the first SIGTERM or Ctrl-C; end the process at the second.

    This includes signals that were ignored, such as Ctrl-C in a script's background processes. Does nothing outside the
    main thread.
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.forget()
    _state.listening = True
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()  # ends the thread
        _state.listening = False


@contextlib.contextmanager
def at_next_step(request: Callable[[], object], *, run: Path) -> Iterator[None]:
    """Make the first signal only call `request` while this context is active.

    Args:
        request: Called in the main thread; the run should then end by itself soon.
        run: The run folder, named in the last line if the run does not end.
    """
    from meru.configuration.overrides import pasteable  # here, so that scripts/torchrun.py handles signals early

    with listening():
        _state.go_on = pasteable("resume", run)
        _state.moved, _state.longest = time.monotonic(), 0.0
        _state.at_next_step = request
        try:
            if _state.number is not None:
                request()
            yield
        finally:
            _state.at_next_step = None
            if _state.number is not None:  # training has stopped, the process has only to exit
                _state.heard, _state.since = True, time.monotonic()


def requested() -> float | None:
    """Seconds since the first signal, None without one."""
    return None if _state.number is None else time.monotonic() - _state.since


def stop_here() -> None:
    """Raise `Stopped`, even in training, because the next batch does not arrive."""
    raise Stopped(_state.number or signal.SIGTERM)


def progress() -> None:
    """Record that another batch has arrived."""
    now = time.monotonic()
    _state.longest = max(_state.longest, now - _state.moved)
    _state.moved = now


def reason(error: KeyboardInterrupt) -> tuple[str, int]:
    """Describe in one line what interrupted the run, and give the exit code."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    return what + _how_to_go_on(), 128 + number


def follow_parent() -> None:
    """Stop as on SIGTERM when the parent process is gone; otherwise its ranks would train on in the background."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def leave_within(seconds: float, exit_code: int) -> None:
    """End the process if the interpreter's exit takes too long, for instance because of a child that cannot end."""
    leaving = threading.Event()

    def end() -> None:
        leaving.wait()
        time.sleep(seconds)
        os._exit(exit_code)

    threading.Thread(target=end, daemon=True).start()
    atexit.register(leaving.set)


def _handle(number: int, frame: object) -> None:
    _note(number)
    if _state.at_next_step is not None:
        _state.at_next_step()
    elif not _state.heard:
        _state.heard = True
        raise Stopped(number)


def _note(number: int) -> None:
    if _state.number is None:
        _state.since = time.monotonic()
        _state.number = number


def _watch(reader: socket.socket) -> None:
    """Receive signals as they arrive, and end the process if the main thread does not."""
    with reader:
        while True:
            waiting = None if _state.number is None else 0.2
            if select.select([reader], [], [], waiting)[0]:
                numbers = reader.recv(64)
                if not numbers:
                    return
                for number in set(numbers).intersection(SIGNALS):
                    if _state.number is not None and time.monotonic() - _state.since > ONE_REQUEST:
                        _end(number, "at once by a second signal")
                    _note(number)
            if _state.number is not None:
                _check()


def _check() -> None:
    if failures.reported():  # torchrun ends this process because another one failed
        os._exit(1)
    waited = time.monotonic() - _state.since
    if _state.at_next_step is None:
        if waited > (LEAVING if _state.heard else UNHEARD):
            _end(_state.number, "while it waited")
        return
    limit = max(UNMOVED if failures.is_main() else UNMOVED_BESIDE, min(3 * _state.longest, UNMOVED_BESIDE))
    still = min(waited, time.monotonic() - _state.moved)
    if still > limit:
        _end(_state.number, f"before its next step, which did not come within {still:.0f} s")


def _end(number: int, how: str) -> None:
    # Standard error may be a pipe whose reader has stopped.
    patience = threading.Timer(2, os._exit, (128 + number,))
    patience.daemon = True
    patience.start()
    failures.report(f"stopped by {signal.Signals(number).name} {how}{_how_to_go_on()}", 128 + number)
    os._exit(128 + number)


def end_without_group(reason: str) -> None:
    """End the process, whatever its main thread waits for, because another one of its group is gone."""
    patience = threading.Timer(2, os._exit, (1,))
    patience.daemon = True
    patience.start()
    failures.report(f"{reason}{_how_to_go_on()}", 1, lost=True)
    os._exit(1)


def _how_to_go_on() -> str:
    return "" if _state.go_on is None else f"; to go on: {_state.go_on}"
