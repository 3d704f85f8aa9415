"""The runs of an ablation: as many at a time as there are GPUs, taken up again where they stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from meru.configuration.overrides import override
from meru.errors import UserError
from meru.files import CONFIGS, PROJECT
from meru.run_layout import CONFIG, FIGURES, LOCK

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

TRAIN = PROJECT / "scripts" / "train.py"
LINES_OF_A_FAILURE = 8
MOST_JOBS = 1000


@dataclass
class Run:
    """One variant with one seed.

    Attributes:
        overrides: All but the folder.
        configuration: What the run's `config.yaml` holds, or will hold.
    """

    variant: str
    seed: int
    folder: Path
    overrides: list[str]
    configuration: dict

    @property
    def title(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def finished(self) -> bool:
        return (self.folder / FIGURES).is_file()

    @property
    def begun(self) -> bool:
        return (self.folder / CONFIG).is_file()

    def command(self) -> list[str]:
        """Begins the run, or goes on with it."""
        if not self.begun:
            return [sys.executable, str(TRAIN), *self.overrides, override("folder", self.folder)]
        # Its own configuration says everything else; a key added by + cannot be given a second time.
        choices = [word for word in self.overrides if (CONFIGS / word.partition("=")[0]).is_dir()]
        return [sys.executable, str(TRAIN), *choices, override("resume", self.folder)]


def slots_of(jobs: str) -> list[dict[str, str]]:
    """For every run at a time the environment variables that give it its GPU and its share of the cores."""
    if jobs and not (re.fullmatch(r"[1-9]\d{0,3}", jobs) and int(jobs) <= MOST_JOBS):
        raise UserError(f"jobs={jobs}: give a whole number from 1 to {MOST_JOBS} (runs at a time)")
    gpus = visible_gpus()
    count = int(jobs or max(1, len(gpus)))
    if gpus and count > len(gpus):
        raise UserError(f"jobs={count}: there are {len(gpus)} GPUs, and each takes one run at a time")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // count))
    gpu_of = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:count]] or [{}] * count
    return [{**gpu, "OMP_NUM_THREADS": threads} for gpu in gpu_of]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


def train_all(runs: list[Run], slots: list[dict[str, str]], output: Path) -> list[str]:
    """Train what is not finished, as many runs at a time as there are slots; returns the titles of those that failed.

    Raises:
        UserError: if another such command is at work in the folder, or Ctrl-C ended this one.
    """
    output.mkdir(parents=True, exist_ok=True)
    for run in runs:
        if run.finished:
            print(f"{run.title}: has its figures already")
    waiting = [run for run in runs if not run.finished]
    total, failed = len(waiting), []
    free, working = list(slots), []
    with (output / LOCK).open("w") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output} is in use by runs of another such command: wait for them") from None
        try:
            while waiting or working:
                while waiting and free:
                    run, slot = waiting.pop(0), free.pop(0)
                    print(f"{run.title}: {'goes on' if run.begun else 'begins'}, "
                          f"number {total - len(waiting)} of {total}", flush=True)  # fmt: skip
                    working.append((run, start(run, slot, lock.fileno()), slot, time.monotonic()))
                time.sleep(0.1)
                for ended in [item for item in working if item[1].poll() is not None]:
                    working.remove(ended)
                    run, process, slot, began = ended
                    free.append(slot)
                    if not report_end(run, process.returncode, (time.monotonic() - began) / 60):
                        failed.append(run.title)
        except KeyboardInterrupt:
            stop([process for _, process, _, _ in working])
            raise UserError("interrupted: the same command goes on with what is not finished", exit_code=130) from None
    return failed


def start(run: Run, environment: dict[str, str], lock: int) -> subprocess.Popen:
    """The training process, in a session of its own: Ctrl-C reaches this script alone, which asks for a checkpoint.

    It holds the lock as well. Should this script be killed, no second one starts beside the runs left behind.
    """
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
    """Say how a run ended; True if well."""
    if code == 0 and run.finished:
        print(f"{run.title}: finished after {minutes:.1f} minutes", flush=True)
        return True
    # The progress bar writes over itself: of a line, what was seen last.
    lines = [line.rstrip().rpartition("\r")[2] for line in run.log.read_text("utf-8", "replace").split("\n")]
    last = [line for line in lines if line.strip()][-LINES_OF_A_FAILURE:]
    how = "stopped before its end" if code == 0 else f"failed with exit code {code}"
    print(f"{run.title}: {how} after {minutes:.1f} minutes; the end of {run.log}:", file=sys.stderr)
    print("\n".join(f"    {line}" for line in last), file=sys.stderr, flush=True)
    return False


def stop(processes: list[subprocess.Popen]) -> None:
    """Ask for checkpoints and wait for them; a second Ctrl-C does not wait."""
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
