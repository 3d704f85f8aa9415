"""Train the runs of an ablation, several at a time, and resume unfinished ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from meru.configuration.overrides import override
from meru.errors import UserError
from meru.files import CONFIGS, PROJECT
from meru.run_layout import CONFIG, FIGURES, LOCK
from meru.runs.duration import read_duration

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TRAIN = PROJECT / "scripts" / "train.py"
EVALUATE = PROJECT / "scripts" / "evaluate.py"
LINES_OF_A_FAILURE = 8
WRONG_USAGE = 2  # the exit code of a mistake in the configuration
MOST_JOBS = 1000


@dataclass
class Run:
    """One variant with one seed: its training, or a suite on it.

    Attributes:
        variant: The row of the table; runs of one variant take about the same time.
        overrides: All overrides except the folder.
        configuration: The contents of the run's `config.yaml`, present or future.
        after: A run that must be finished before this one begins.
        suite: Name of a section of `suites:`, of which the overrides are; None: training.
    """

    variant: str
    seed: int
    folder: Path
    overrides: list[str]
    configuration: dict
    after: Run | None = None
    suite: str | None = None

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}{f', {self.suite}' if self.suite else ''}"

    @property
    def kind(self) -> tuple[str, str | None]:
        """What takes about the same time."""
        return self.variant, self.suite

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}{f'_{self.suite}' if self.suite else ''}.log")

    @property
    def figures(self) -> Path:
        """The file of its figures."""
        return self.folder / (f"{self.suite}.json" if self.suite else FIGURES)

    @property
    def finished(self) -> bool:
        return self.figures.is_file()

    @property
    def begun(self) -> bool:
        return self.suite is None and (self.folder / CONFIG).is_file()

    def command(self) -> list[str]:
        """The command that begins or resumes the run."""
        if self.suite:
            own = [override("run", self.folder), override("output", self.figures)]
            return [sys.executable, str(EVALUATE), *self.overrides, *own]
        if not self.begun:
            return [sys.executable, str(TRAIN), *self.overrides, override("folder", self.folder)]
        # The rest is in its own configuration; a key added by + cannot be given a second time.
        choices = [word for word in self.overrides if (CONFIGS / word.partition("=")[0]).is_dir()]
        return [sys.executable, str(TRAIN), *choices, override("resume", self.folder)]


def slots_of(jobs: str, runs: int) -> list[dict[str, str]]:
    """Environment variables for each concurrent run, which assign it a GPU and its share of the cores.

    Args:
        jobs: The user's number of runs at a time, of which several share a GPU if there are more; empty: one per GPU,
            or without a GPU one per core. On a CPU, several runs with one thread each finish earlier than one run after
            the other with all threads.
        runs: Number of runs to train, which need no more slots.
    """
    if jobs and not (re.fullmatch(r"[1-9]\d{0,3}", jobs) and int(jobs) <= MOST_JOBS):
        raise UserError(f"jobs={jobs}: give a whole number from 1 to {MOST_JOBS} (runs at a time)")
    gpus = visible_gpus()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "")
    most = len(gpus) or max(1, cores // int(given) if re.fullmatch(r"[1-9]\d{0,5}", given) else cores)
    count = int(jobs or min(most, max(1, runs)))
    threads = given or str(max(1, cores // count))
    gpu_of = [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {} for slot in range(count)]
    return [{**gpu, "OMP_NUM_THREADS": threads} for gpu in gpu_of]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def train_all(runs: list[Run], jobs: str, output: Path) -> list[str]:
    """Train the unfinished runs, several at a time; returns the titles of runs that failed.

    Args:
        runs: A run whose `after` is among them waits for it.
        jobs: See `slots_of`.
        output: The folder of the ablation, locked meanwhile.

    Raises:
        UserError: if another such command is using the folder, or Ctrl-C ended this one.
    """
    waiting = [run for run in runs if not run.finished]
    slots = slots_of(jobs, len(waiting))
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK).open("w") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is in use by another ablation: wait until it ends") from None
        print_plan(runs, slots)
        return Queue(runs, slots, lock.fileno()).train()


def print_plan(runs: list[Run], slots: list[dict[str, str]]) -> None:
    """Print the finished runs, and how the others will be done."""
    for run in runs:
        if run.finished:
            print(f"{run.title}: already finished")
    finished = sum(run.finished for run in runs)
    if finished < len(runs):
        threads = slots[0]["OMP_NUM_THREADS"]
        gpus = {slot["CUDA_VISIBLE_DEVICES"] for slot in slots if "CUDA_VISIBLE_DEVICES" in slot}
        sharing = f", which share {len(gpus)} GPU{'' if len(gpus) == 1 else 's'}" if 0 < len(gpus) < len(slots) else ""
        print(f"{len(runs)} runs: {finished} finished, {len(runs) - finished} to do, {len(slots)} at a time with "
              f"{threads} thread{'' if threads == '1' else 's'} each{sharing}", flush=True)  # fmt: skip


class Working(NamedTuple):
    """A run in progress."""

    run: Run
    process: subprocess.Popen
    slot: dict[str, str]
    began: float


class Queue:
    """Trains the unfinished ones of some runs, one per slot at a time.

    Args:
        runs: In their order of preference.
        slots: Environment variables of each slot.
        lock: Descriptor of the file that locks the folder of the ablation.
    """

    def __init__(self, runs: list[Run], slots: list[dict[str, str]], lock: int):
        self.waiting = [run for run in runs if not run.finished]
        self.total, self.lock = len(self.waiting), lock
        self.order = [run.title for run in self.waiting]
        self.free, self.working = list(slots), list[Working]()
        self.slots, self.failed = len(slots), list[str]()
        # Kind → minutes of its finished runs.
        self.known: dict[tuple[str, str | None], list[float]] = {}
        for run in runs:
            if run.suite is None and run.finished and (duration := read_duration(run.folder)):
                self.known.setdefault(run.kind, []).append(duration["minutes"])

    def train(self) -> list[str]:
        """Train them; returns the titles of those that failed, or that wait for one that did."""
        try:
            while self.waiting or self.working:
                while self.free and (run := self._next()):
                    self._start(run)
                time.sleep(0.1)
                for ended in [item for item in self.working if item.process.poll() is not None]:
                    self._end(ended)
        except KeyboardInterrupt:
            stop([item.process for item in self.working])
            raise UserError("interrupted: repeat the command to resume the unfinished runs", exit_code=130) from None
        return [title for title in self.order if title in self.failed]

    def _next(self) -> Run | None:
        """The first run that needs no other, or whose other is finished; those that wait in vain are dropped."""
        in_progress = [*self.waiting, *(item.run for item in self.working)]
        for run in list(self.waiting):
            if run.after is None or run.after.finished:
                self.waiting.remove(run)
                return run
            if run.after not in in_progress:
                self.waiting.remove(run)
                self.failed.append(run.title)
                print(f"{run.title}: left out, because {run.after.title} failed", file=sys.stderr, flush=True)
        return None

    def _start(self, run: Run) -> None:
        slot, number = self.free.pop(0), self.total - len(self.waiting)
        print(f"{run.title}: {'goes on' if run.begun else 'begins'}, number {number} of {self.total}", flush=True)
        self.working.append(Working(run, start(run, slot, self.lock), slot, time.monotonic()))

    def _end(self, ended: Working) -> None:
        self.working.remove(ended)
        self.free.append(ended.slot)
        minutes = (time.monotonic() - ended.began) / 60
        if not report_end(ended.run, ended.process.returncode, minutes):
            self.failed.append(ended.run.title)
            if ended.process.returncode == WRONG_USAGE:
                self._leave_out(ended.run)
            return
        self.known.setdefault(ended.run.kind, []).append(minutes)
        if self.waiting or self.working:
            print(f"about {self.remaining_minutes():.0f} minutes left", flush=True)

    def _leave_out(self, wrong: Run) -> None:
        """Drop the waiting runs that only differ in the seed and would end by the same mistake."""
        like = [run for run in self.waiting if run.kind == wrong.kind]
        if like:
            self.waiting = [run for run in self.waiting if run not in like]
            self.failed += [run.title for run in like]
            titles = ", ".join(run.title for run in like)
            print(f"{titles}: left out, because the same would be wrong", file=sys.stderr, flush=True)

    def remaining_minutes(self) -> float:
        """Estimate from the finished runs, of the same variant if there are any; one must have finished."""
        every = [minutes for of_variant in self.known.values() for minutes in of_variant]

        def expected(run: Run) -> float:
            like = self.known.get(run.kind) or every
            return sum(like) / len(like)

        now = time.monotonic()
        left = [max(0.0, expected(item.run) - (now - item.began) / 60) for item in self.working]
        left += [expected(run) for run in self.waiting]
        return max([sum(left) / self.slots, *left])


def start(run: Run, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """Start a training process in its own session, so that Ctrl-C reaches only this script, which requests checkpoints.

    The process also holds the lock. If this script is killed, no second one can start while the runs continue.
    """
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            run.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            pass_fds=(lock,) if fcntl is not None else (),
        )


def report_end(run: Run, code: int, minutes: float) -> bool:
    """Print how a run ended; returns whether it succeeded."""
    if code == 0 and run.finished:
        print(f"{run.title}: finished after {minutes:.1f} minutes", flush=True)
        return True
    # The progress bar overwrites itself: keep the last version of a line.
    lines = [line.rstrip().rpartition("\r")[2] for line in run.log.read_text("utf-8", "replace").split("\n")]
    last = [line for line in lines if line.strip()][-LINES_OF_A_FAILURE:]
    how = "stopped before its end" if code == 0 else f"failed with exit code {code}"
    print(f"{run.title}: {how} after {minutes:.1f} minutes; the end of {run.log}:", file=sys.stderr)
    print("\n".join(f"    {line}" for line in last), file=sys.stderr, flush=True)
    return False


def stop(processes: list[subprocess.Popen]) -> None:
    """Request checkpoints and wait for them; a second Ctrl-C ends the wait."""
    if processes:
        print(f"stopping {len(processes)} runs at their next step", file=sys.stderr, flush=True)
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
            process.wait()
