"""Worker processes that read images: every wait for them has a limit, and a failure is reported in one line."""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from meru import stopping
from meru.errors import UserError
from meru.files import os_error_message

_ON_LINUX = sys.platform == "linux"
SHARED_MEMORY = "/dev/shm"
TIMEOUT = 600.0  # seconds for a batch; even a slow disk needs only a few
POLL = 1.0
PATIENCE = 5.0  # seconds for a batch after a signal to stop
# Exit codes of a worker that cannot send a batch.
_NO_SHARED_MEMORY, _NO_FILES, _NOT_SENT = 101, 102, 103
_FILES = (
    "too many open files: batches from workers need them: raise the limit (`ulimit -n 4096`), lower data.workers, or "
    "set data.workers=0"
)


class Loader(DataLoader):
    """A DataLoader that raises a `UserError` in whatever way its workers fail.

    A batch that is a `UserError` is raised: data sets return one for errors that the user has to correct.

    Args:
        wait: Seconds to wait for a batch from the workers; 0: no limit.
        options: As for a DataLoader.
    """

    def __init__(self, *arguments, wait: float = TIMEOUT, **options):
        if wait < 0:
            raise UserError(f"data.timeout={wait}: give seconds, or 0 to wait without limit")
        super().__init__(*arguments, **options, timeout=POLL if options.get("num_workers") else 0)
        self.wait = wait

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = self._started()
        workers = getattr(batches, "_workers", [])
        watch = _Watch(workers)
        try:
            while True:
                try:
                    batch = self._next(batches, workers, watch)
                except StopIteration:
                    workers = []  # they have ended
                    return
                if isinstance(batch, UserError):
                    raise batch
                stopping.progress()
                yield batch
        finally:
            watch.over.set()
            for worker in workers:  # workers that wait for a disk would not end otherwise
                worker.kill()

    def _started(self) -> Iterator:
        """The batches of torch's loader, after starting its workers."""
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
        try:
            if self.num_workers:
                multiprocessing.Queue()  # fails here rather than within torch's iterator, which would be left half made
            return super().__iter__()
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise UserError(_FILES, exit_code=1) from error
            if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSYS):
                raise UserError(_no_shared_memory(), exit_code=1) from error
            raise UserError(
                f"cannot start data.workers={self.num_workers} processes: {os_error_message(error)}", exit_code=1
            ) from error
        finally:
            # When a worker dies, torch's handler would raise anywhere in the main thread. `_next` checks every second.
            if main and handler is not None:
                signal.signal(signal.SIGCHLD, handler)

    def _next(
        self, batches: Iterator, workers: list[multiprocessing.Process], watch: _Watch
    ) -> dict[str, Tensor] | UserError:
        began = time.monotonic()
        while True:
            watch.expect(self.wait)
            try:
                batch = next(batches)
                watch.rest()
                return batch
            except StopIteration:
                raise
            except MemoryError as error:
                raise UserError(_no_memory(), exit_code=1) from error
            except (RuntimeError, OSError, EOFError) as error:
                text = str(error)
                if "DataLoader timed out" not in text and not watch.expired:
                    message = _failure(workers, text, error)
                    if message is None:
                        raise
                    raise UserError(message, exit_code=1) from error
            if (asked := stopping.requested()) is not None and asked > PATIENCE:
                stopping.stop_here()
            if not watch.expired and (message := _failure(workers, "", None)):
                raise UserError(message, exit_code=1)
            if watch.expired or (self.wait and time.monotonic() - began > self.wait):
                raise UserError(
                    f"no batch came from the {self.num_workers} processes that read images for {self.wait:g} s "
                    "(data.timeout): check that the disk or network drive with the images responds, and try "
                    "data.workers=0; data.timeout=0 waits without limit",
                    exit_code=1,
                )


class OrderedLoader(Loader):
    """A loader of batches in a fixed order, of which `part` reads some.

    Args:
        data: As for a DataLoader.
        batch_size: Samples per batch.
        sampler: Keys of the samples in their order; None: all indices.
        options: As for `Loader`.
    """

    def __init__(self, data: Dataset, *, batch_size: int, sampler: Iterable | None = None, **options):
        super().__init__(data, batch_size=batch_size, sampler=sampler, **options)
        self._options = options

    def part(self, rank: int, size: int) -> Loader:
        """A loader of the batches `rank`, `rank + size`, `rank + 2 * size`, …, which reads no others."""
        own = list(itertools.islice(self.batch_sampler, rank, None, size))
        return Loader(self.dataset, batch_sampler=own, **self._options)


class _Watch:
    """Kills the workers if the main process hangs while receiving from one that stopped half-way.

    The main process waits without a limit on the connection through which a worker sends a batch.
    """

    def __init__(self, workers: list[multiprocessing.Process]):
        self.workers, self.over, self.expired = workers, threading.Event(), False
        self.began, self.wait = None, 0.0
        if workers:
            threading.Thread(target=self._run, daemon=True).start()

    def expect(self, wait: float) -> None:
        """Start waiting for a batch, at most `wait` seconds; 0: no limit."""
        self.wait = wait
        self.began = self.began or time.monotonic()

    def rest(self) -> None:
        """Stop waiting: the batch has arrived."""
        self.began = None

    def _run(self) -> None:
        while not self.over.wait(POLL):
            began, asked = self.began, stopping.requested()
            if began is None:
                continue
            late = self.wait and time.monotonic() - began > self.wait + 2 * POLL
            if late or (asked is not None and asked > PATIENCE + 2 * POLL):
                self.expired = True
                for worker in self.workers:
                    worker.kill()
                return


class EpochwiseLoader:
    """A sequence of loaders, one per epoch, each made when the last batch of the epoch before has been used.

    If workers read ahead into the next epoch, its neighbours would be computed before the model has finished the last
    one.
    """

    def __init__(self, make: Callable[[int, int], DataLoader], *, start_step: int, total_steps: int, epoch: int):
        self.make, self.start_step, self.total_steps, self.epoch = make, start_step, total_steps, epoch

    def __len__(self) -> int:
        return max(0, self.total_steps - self.start_step)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        step = self.start_step
        while step < self.total_steps:
            until = min((step // self.epoch + 1) * self.epoch, self.total_steps)
            yield from self.make(step, until)
            step = until


def worker_options(section: Mapping) -> dict[str, int | float]:
    """`workers` and `timeout` of a configuration's `data`; runs of earlier versions lack `timeout`."""
    return {"workers": section["workers"], "timeout": section.get("timeout", TIMEOUT)}


def loader_options(workers: int, timeout: float) -> dict:
    """Options of every loader: `workers` processes, and at most `timeout` seconds of waiting for a batch from them."""
    return {
        "num_workers": workers,
        "wait": timeout,
        # Python 3.14 starts workers from a fork server: each would import everything again and lack _prepare_worker.
        "multiprocessing_context": "fork" if workers and _ON_LINUX else None,
        "worker_init_fn": _prepare_worker if workers else None,
        "pin_memory": torch.cuda.is_available(),
        # Otherwise every pass would draw a number from the default generator, whose state resuming restores.
        "generator": torch.Generator(),
    }


# ---------------------------------------------------------------- how a worker failed


def _failure(workers: list[multiprocessing.Process], text: str, error: BaseException | None) -> str | None:
    """One line about a worker that died, or about an error while receiving from one; None for anything else."""
    if error is not None:
        time.sleep(0.1)  # lets a dying worker finish
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    for code in codes:
        if code in (_NO_SHARED_MEMORY, -signal.SIGBUS):
            return _no_shared_memory()
        if code == _NO_FILES:
            return _FILES
        if code == -signal.SIGKILL:
            return (
                "a process that reads images was killed (SIGKILL), probably for lack of memory: lower data.workers "
                "or data.batch_size, or give the job more memory"
            )
        if code < 0:
            name = signal.Signals(-code).name
            return (
                f"a process that reads images crashed ({name}): start again with data.workers=0 to find the image"
            )
        return f"a process that reads images ended with exit code {code}: start again with data.workers=0 to see why"
    if "Too many open files" in text or "ancdata" in text or getattr(error, "errno", None) == errno.EMFILE:
        return _FILES
    if _is_about_shared_memory(text):
        return _no_shared_memory()
    if "can't allocate memory" in text or "not enough memory" in text:
        return _no_memory()
    if "Pin memory thread exited" in text:
        return "batches could not be received from the processes that read images: try data.workers=0"
    return None


def _no_shared_memory() -> str:
    size = ""
    with contextlib.suppress(OSError):
        size = f", {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.3g} MiB, is too small"
    return (
        f"no room in shared memory: {SHARED_MEMORY}{size or ' cannot be used'}, and batches from workers pass through "
        "it: make it larger (docker run --shm-size=8g), lower data.workers or data.batch_size, or set data.workers=0"
    )


def _no_memory() -> str:
    return "not enough memory for the next batch: lower data.workers or data.batch_size"


def _is_about_shared_memory(text: str) -> bool:
    return "shared memory" in text or "torch_shm_manager" in text or "No space left on device" in text


# ---------------------------------------------------------------- inside a worker


def _prepare_worker(worker: int) -> None:
    # An error in the thread that sends batches is only printed by torch: the main process would wait without end.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_because)
    if not _ON_LINUX:
        return
    # Terminals, torchrun and batch systems signal the workers too. Only signals from the main process end them, so that
    # they stay alive while it saves its checkpoint; it sends SIGTERM if necessary. Only Linux reports the sender of a
    # signal.
    signal.set_wakeup_fd(-1)  # the main process's, see meru.stopping
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_main_process, args=(os.getppid(),), daemon=True).start()


def _obey_main_process(main: int) -> None:
    """End this worker when the main process asks for it or is gone, also while waiting for a disk."""
    while os.getppid() == main:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received and received.si_pid == main:
            break
    os._exit(0)


def _end_because(error: Exception, batch: object) -> None:
    """End a worker whose batch cannot be sent, with an exit code for the reason."""
    text = str(error)
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
        os._exit(_NO_FILES)
    if _is_about_shared_memory(text):
        os._exit(_NO_SHARED_MEMORY)
    traceback.print_exception(error)
    os._exit(_NOT_SENT)
