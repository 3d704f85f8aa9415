"""torchrun for this project: one line says why a run failed; the exit code is that of the process that failed first.

Signals are handed on, so that the processes save a checkpoint and end as a single one would; torchrun waits for them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from meru import failures, stopping

PATIENCE = 10.0  # seconds after a second signal until processes that do not end are killed
MEMORY = "probably because memory ran out: lower data.workers or data.batch_size, or give the job more memory"


def launch() -> int:
    """Run torchrun with this process's arguments; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the processes inherit it
    logging.disable(logging.CRITICAL)  # what torchrun reports of signals and failures is said below, on one line
    with tempfile.TemporaryDirectory(prefix="meru_", ignore_cleanup_errors=True) as folder:
        os.environ[failures.FOLDER] = folder
        signal.signal(signal.SIGTERM, stop)  # until there are processes to hand it to: torch alone takes seconds
        try:
            line, exit_code = run_torch(Path(folder))
        except KeyboardInterrupt as error:
            message, exit_code = stopping.reason(error)
            line = f"error: {message}"
        if line:
            print(line, file=sys.stderr, flush=True)
        return exit_code


def stop(number: int, frame: object) -> None:
    """A signal handler."""
    raise stopping.Stopped(number)


def run_torch(folder: Path) -> tuple[str, int]:
    """What to say at the end, and the exit code."""
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    start, came = PContext.start, []

    def start_and_listen(context: PContext) -> None:
        start(context)  # takes SIGTERM for itself: it would kill the processes after 30 seconds, checkpoint or not
        hand_signals_on(lambda: list(context.pids().values()), came)

    PContext.start = start_and_listen
    try:
        main()
        return "", 0
    except ChildFailedError as error:
        return first_failure(folder, {rank: each.exitcode for rank, each in error.failures.items()}, came)
    except SignalException as error:
        return f"error: stopped by {signal.Signals(error.sigval).name}", 128 + error.sigval
    except (RuntimeError, OSError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            return "error: the port for the processes is in use: choose another one by --master-port=29501", 1
        return f"error: torchrun: {' '.join(str(error).split())[:300]}", 1


def hand_signals_on(processes: Callable[[], list[int]], came: list[int]) -> None:
    """Send SIGTERM and Ctrl-C to the processes, which are in sessions of their own, out of reach of the terminal.

    Args:
        processes: Their ids.
        came: Takes the signals that came.
    """
    first = [0.0]

    def hand_on(number: int, frame: object) -> None:
        for process in processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        if came and time.monotonic() - first[0] > stopping.ONE_REQUEST:
            threading.Thread(target=kill_soon, args=(processes(),), daemon=True).start()
        first[0] = first[0] or time.monotonic()
        came.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, hand_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if IGNORES_HANGUP else hand_on)


def kill_soon(processes: list[int]) -> None:
    """Kill each process with its workers."""
    time.sleep(PATIENCE)
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)


def first_failure(folder: Path, exit_codes: dict[int, int], came: list[int]) -> tuple[str, int]:
    """The line and the exit code of the process that failed first.

    Args:
        folder: Where processes left word, see `meru.failures`.
        exit_codes: Of those that failed by rank, in the order in which it was noticed; negative: ended by that signal.
        came: Signals that this process handed on.
    """
    word = failures.first_of(folder)
    if word and failures.named_reason(folder):
        return word
    killed = [(rank, code) for rank, code in exit_codes.items() if code < 0]
    if word and not killed:
        return word
    rank, code = killed[0] if word else next(iter(exit_codes.items()))
    if code >= 0:
        return f"error: rank {rank}: ended with exit code {code}", code
    name = signal.Signals(-code).name
    if came:
        return f"error: stopped by {name}", 128 - code
    return f"error: rank {rank}: killed by {name}{f', {MEMORY}' if name == 'SIGKILL' else ''}", 128 - code


IGNORES_HANGUP = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup

if __name__ == "__main__":
    sys.exit(launch())
