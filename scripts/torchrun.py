"""torchrun for this project: reports a failure in one line, with the exit code of the process that failed first.

Signals are passed on, so that the processes save a checkpoint and end like a single process; torchrun waits for them.
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
import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru import failures, stopping

PATIENCE = 10.0  # seconds after a second signal before remaining processes are killed
MEMORY = "probably because memory ran out: lower data.workers or data.batch_size, or give the job more memory"


def launch() -> int:
    """Run torchrun with this process's arguments; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the processes inherit it
    logging.disable(logging.CRITICAL)  # signals and failures are reported below, in one line
    with tempfile.TemporaryDirectory(prefix="meru_", ignore_cleanup_errors=True) as folder:
        os.environ[failures.FOLDER] = folder
        signal.signal(signal.SIGTERM, stop)  # until the processes exist: importing torch takes seconds
        try:
            line, exit_code = run_torch(Path(folder))
        except KeyboardInterrupt as error:
            message, exit_code = stopping.reason(error)
            line = f"error: {message}"
        if line:
            print(line, file=sys.stderr, flush=True)
        return exit_code


def stop(number: int, frame: object) -> None:
    """Exit on a signal."""
    raise stopping.Stopped(number)


def run_torch(folder: Path) -> tuple[str, int]:
    """Run the processes; returns the final message and the exit code."""
    from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import main

    start, came = PContext.start, []

    def start_and_listen(context: PContext) -> None:
        start(context)  # installs a SIGTERM handler that would kill the processes after 30 seconds
        hand_signals_on(lambda: list(context.pids().values()), came)

    PContext.start = start_and_listen
    try:
        main()
        return "", 0
    except ChildFailedError as error:
        failed = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        return first_failure(failures.last_attempt(folder), {rank: each.exitcode for rank, each in failed}, came)
    except SignalException as error:
        return f"error: stopped by {signal.Signals(error.sigval).name}", 128 + error.sigval
    except RendezvousError:
        lost = "error: the connection to torchrun on another machine broke: it ended, or cannot be reached"
        return failures.first_of(failures.last_attempt(folder)) or (lost, 1)
    except (RuntimeError, OSError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            return "error: the port for the processes is in use: choose another one with --master-port=29501", 1
        return f"error: torchrun: {' '.join(str(error).split())[:300]}", 1


def hand_signals_on(processes: Callable[[], list[int]], came: list[int]) -> None:
    """Pass SIGTERM and Ctrl-C on to the processes, whose own sessions keep the terminal's signals from them.

    Args:
        processes: Returns the processes' ids.
        came: Received signals are appended here.
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
        folder: Folder of the processes' messages, see `meru.failures`.
        exit_codes: Rank → exit code of failed processes, in the order of detection; negative for signals.
        came: Signals that this process has passed on.
    """
    word = failures.first_of(folder)
    # torchrun ends the others by SIGTERM when one is gone: theirs is no reason unless the signal came from outside.
    killed = [(rank, code) for rank, code in exit_codes.items() if code < 0 and (came or code != -signal.SIGTERM)]
    obeyed = word is not None and word[1] == 128 + signal.SIGTERM and not came
    if word and not (killed and obeyed) and (failures.named_reason(folder) or not killed):
        return word
    rank, code = killed[0] if killed else next(iter(exit_codes.items()))
    if code >= 0:
        return f"error: rank {rank}: ended with exit code {code}", code
    name = signal.Signals(-code).name
    if came:
        return f"error: stopped by {name}", 128 - code
    return f"error: rank {rank}: killed by {name}{f', {MEMORY}' if name == 'SIGKILL' else ''}", 128 - code


IGNORES_HANGUP = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup

if __name__ == "__main__":
    sys.exit(launch())
