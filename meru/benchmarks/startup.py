"""Seconds from a command to its answer, and to the first training step, in fresh processes, as a Markdown table."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from meru.errors import UserError
from meru.files import PROJECT
from meru.reports.tables import markdown_table
from meru.run_layout import METRICS

IMPORTS = ("hydra", "torch", "torchvision", "timm", "open_clip", "matplotlib.figure", "sklearn.cluster", "wandb")
SCRIPTS = (
    *("train", "evaluate", "index", "search", "serve", "visualize", "export", "compare", "ablate", "diagnose"),
    *("prepare_data", "report", "benchmark"),
)
TINY = (
    *("data=birds", "+data.load.images_per_species=4", "data.workers=0", "data.batch_size=8", "trainer.log_every=1"),
    *("encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2", "logger=none", "trainer.epochs=1"),
)


def report(repeats: int, device: str) -> str:
    """Table of the least seconds of several rounds, after one that fills the page cache.

    Args:
        repeats: Rounds.
        device: `cpu`.
    """
    rows = [(f"import {name}", *fresh(["-c", f"import {name}"], repeats)) for name in IMPORTS]
    rows += [(f"scripts/{name}.py --help", *fresh([script(name), "--help"], repeats)) for name in SCRIPTS]
    train = script("train")
    rows.append(("scripts/train.py --cfg job", *fresh([train, "--cfg", "job"], repeats)))
    rows.append(("scripts/train.py trainer.epoch=3 (a wrong key)", *fresh([train, "trainer.epoch=3"], repeats, code=2)))
    with tempfile.TemporaryDirectory() as temporary:
        rows.append(("scripts/train.py, to its first step", *first_step(Path(temporary), repeats)))
    note = (
        f"Fresh processes, best of {repeats} rounds, page cache warm. Training: synthetic birds that are drawn "
        "already, a small tower, no worker processes, no logger."
    )
    cells = [[what, f"{seconds:.2f} s", f"{processor:.2f} s"] for what, seconds, processor in rows]
    return note + "\n\n" + markdown_table(["command", "time", "processor time"], cells)


def script(name: str) -> str:
    """The path of a script of the project."""
    return str(PROJECT / "scripts" / f"{name}.py")


def fresh(words: Sequence[str], repeats: int, *, code: int = 0) -> tuple[float, float]:
    """Least seconds, by the clock and of processor time, of Python with these arguments.

    Raises:
        UserError: if it does not end with the given exit code.
    """
    found = []
    for _ in range(repeats + 1):
        before, began = _processor_seconds(), time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        found.append((time.perf_counter() - began, _processor_seconds() - before))
        if done.returncode != code:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            raise UserError(f"{' '.join(words)} ended with exit code {done.returncode}: {last}", exit_code=1)
    return min(each[0] for each in found[1:]), min(each[1] for each in found[1:])


def first_step(folder: Path, repeats: int) -> tuple[float, float]:
    """Least seconds from the training command to the first line of figures, and processor time until then.

    Raises:
        UserError: if training ends before.
    """
    words = [sys.executable, script("train"), *TINY, f"data.root={folder / 'birds'}"]
    found = []
    for number in range(repeats + 1):
        run, began = folder / f"run{number}", time.perf_counter()
        process = subprocess.Popen([*words, f"folder={run}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not ((run / METRICS).is_file() and (run / METRICS).stat().st_size):
                if process.poll() is not None:
                    raise UserError("scripts/train.py ended before its first step", exit_code=1)
                time.sleep(0.01)
            found.append((time.perf_counter() - began, _seconds_of(process.pid)))
        finally:
            process.kill()
            process.wait()
    return min(each[0] for each in found[1:]), min(each[1] for each in found[1:])


def _processor_seconds() -> float:
    """Processor time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds_of(process: int) -> float:
    """Processor time of a running process on Linux; elsewhere nothing is known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
