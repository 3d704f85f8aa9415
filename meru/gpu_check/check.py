"""The GPU check: one part after another, each in its own process with a time limit: `scripts/gpu_check.py`.

Nothing is downloaded or installed into the environment: missing packages come from wheels, unpacked into a temporary
folder. Until then, only Python itself is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from meru.files import PROJECT, write_text
from meru.gpu_check.parts import PARTS
from meru.gpu_check.report import report

# Time limits in seconds, of each part and of all.
BUDGET = {
    "environment": 40,
    "tests": 110,
    "steps": 150,
    "gahr": 70,
    "discovery": 60,
    "loss": 40,
    "data": 60,
    "training": 150,
    "compiler_tests": 150,  # if the others leave enough time
}
TOTAL = 520
SMOKE = 1200  # total of a smoke run: one or two minutes on a free core, more on a busy machine
IMPORTED = ["torch", "torchvision", "timm", "numpy", "PIL", "hydra", "omegaconf", "open_clip", "safetensors"]
IMPORTED += ["matplotlib", "sklearn", "scipy", "tqdm", "pytest"]


def run_check(out: Path, *, smoke: bool, wheels: Path) -> bool:
    """Run every part and write the results; returns whether all parts passed.

    Args:
        out: Folder for the results, made if it is missing.
        smoke: Whether to run the same parts on the CPU, at tiny sizes.
        wheels: Folder with wheels of packages that the environment lacks.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as temporary:
        folder = Path(temporary)
        variables = environment_of_parts(wheels, folder)
        if not smoke and not sees_gpu(variables):
            leave("PyTorch sees no GPU here; on a CPU: --smoke")
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        results = run_parts(list(PARTS), out, folder, variables, smoke=smoke)
    failed = [name for name, part in results["parts"].items() if part["status"] != "passed"]
    print(f"{out / 'results.md'}: {'failed: ' + ', '.join(failed) if failed else 'every part passed'}")
    return not failed


def leave(message: str) -> None:
    """Exit with one line and code 2."""
    print(f"gpu_check: {message}", file=sys.stderr)
    sys.exit(2)


# ---------------------------------------------------------------- packages


def environment_of_parts(wheels: Path, folder: Path, needed: list[str] = IMPORTED) -> dict[str, str]:
    """Environment variables with which a part can import meru; missing packages come from wheels."""
    paths = [str(PROJECT)]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        files = [file for file in sorted(wheels.glob("*.whl")) if not is_installed(file)]
        if "torch" in missing or not files:
            leave(
                f"{sys.executable} lacks {', '.join(missing)}: `bash scripts/test.sh --version` sets up .venv once; "
                "without a network, bring wheels (scripts/carry_wheels.sh) and name their folder with --wheels"
            )
        install(files, target := folder / "packages")
        sys.path.insert(0, str(target))
        if missing := [name for name in needed if find_spec(name) is None]:
            leave(f"{sys.executable} lacks {', '.join(missing)}, and {wheels} has no wheel for it")
        paths.append(str(target))
    if before := os.environ.get("PYTHONPATH"):
        paths.append(before)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def is_installed(wheel: Path) -> bool:
    """Whether the environment already has the wheel's package, in any version; it is then not replaced."""
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0])
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def install(wheels: list[Path], target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(target), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        leave(f"--wheels: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


def sees_gpu(variables: dict[str, str]) -> bool:
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], env=variables, check=False).returncode == 0


# ---------------------------------------------------------------- parts


def run_parts(names: list[str], out: Path, folder: Path, variables: dict[str, str], *, smoke: bool = False) -> dict:
    """Run one part after another, and write the results after each."""
    began = time.perf_counter()
    results = {"smoke": smoke, "parts": {}}
    with (out / "log.txt").open("w", encoding="utf-8") as log:
        for name in names:
            left = (SMOKE if smoke else TOTAL) - (time.perf_counter() - began)
            command = [sys.executable, "-m", "meru.gpu_check.parts", name]
            command += ["--device", "cpu" if smoke else "cuda", "--output", str(folder / f"{name}.json")]
            command += ["--folder", str(folder), *(["--smoke"] if smoke else [])]
            log.write(f"\n======== {name}\n")
            log.flush()
            part = run_part(command, left if smoke else min(left, BUDGET[name]), variables, log)
            part["figures"] = read_figures(folder / f"{name}.json")
            results["parts"][name] = part
            results["seconds"] = round(time.perf_counter() - began, 1)
            write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
            write_text(out / "results.md", report(results))
            print(f"{name}: {part['status']}, {part['seconds']:.0f} s", flush=True)
    return results


def run_part(command: list[str], seconds: float, variables: dict[str, str], log) -> dict:
    """Run a part and return its status and seconds; its child processes end with it."""
    if seconds < 5:
        return {"status": "no time left", "seconds": 0.0}
    began = time.perf_counter()
    with process_group(command, variables, log) as process:
        try:
            code = process.wait(timeout=seconds)
            status = "passed" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
    return {"status": status, "seconds": round(time.perf_counter() - began, 1)}


@contextlib.contextmanager
def process_group(command: list[str], variables: dict[str, str], log) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=os.setpgrp
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_figures(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}

