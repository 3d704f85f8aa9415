"""A copy of the checkout for tests of the shell commands, where each Python is a stub that notes how it was called.

Nothing is downloaded or trained, and PATH holds only the stubs and the few tools the scripts need.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BASH = shutil.which("bash")
TOOLS = ["cat", "cksum", "cp", "dirname", "grep", "mkdir", "mv", "nproc", "rm", "sleep", "tail", "touch"]

# An interpreter has what `training` or the `tests` need if a file of that name lies beside it (put there by pip).
STUB = f"""#!{BASH}
here=${{BASH_SOURCE[0]%/*}}
printf '%s|' "$0" "$PWD" "$@" >>"$CALLS"
echo >>"$CALLS"
case "$*" in
    *check_environment.py) [ -e "$here/training" ] || {{ echo "torch>=2.6"; exit 1; }} ;;
    *"check_environment.py test") [ -e "$here/tests" ] || {{ echo "pytest>=8"; exit 1; }} ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        while [ -n "${{PIP_WAITS_FOR:-}}" ] && [ ! -e "$PIP_WAITS_FOR" ]; do sleep 0.05; done
        [ -z "${{PIP_ERROR:-}}" ] || {{ echo "WARNING: dull"; echo "ERROR: $PIP_ERROR"; exit 1; }}
        touch "$here/training" "$here/tests"
        ;;
    *device_count*) echo "${{GPUS:-0}}" ;;
    -) exec "{sys.executable}" - ;;
    --version) echo "Python 3.12.0" ;;
    *train.py* | "-m pytest"*)
        [ ! -e /dev/fd/9 ] || echo "the lock is still held" >>"$CALLS"
        echo "pid=$$ hidden=${{CUDA_VISIBLE_DEVICES-unset}}" >>"$CALLS"
        exit "${{TRAIN_EXIT:-0}}"
        ;;
esac
"""


def write_executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


class Checkout:
    """A copy of what the launchers need, in a folder with spaces in its name."""

    def __init__(self, folder: Path):
        self.root = folder / "my own checkout"
        self.venv = self.root / ".venv"
        self.elsewhere = folder / "else where"
        self.stubs = folder / "bin"
        self.calls_file = folder / "calls"
        self.elsewhere.mkdir()
        for name in ("train_cub.sh", "train_patches_cub.sh", "pyproject.toml", "constraints.txt", "scripts"):
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            (self.root / name).parent.mkdir(exist_ok=True)
            copy(PROJECT / name, self.root / name)
        for recipe in (f"{data}_{model}" for data in ("cub", "birds") for model in ("meru", "clip", "meru_patches")):
            recipe_file = self.root / "configs" / "experiment" / f"{recipe}.yaml"
            recipe_file.parent.mkdir(parents=True, exist_ok=True)
            recipe_file.touch()
        (self.root / "meru").mkdir()
        (self.root / "meru" / "__init__.py").touch()
        write_executable(self.stubs / "python3", STUB)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.stubs / tool).symlink_to(found)

    def environment(self, **variables: object) -> dict[str, str]:
        fixed = {"PATH": str(self.stubs), "HOME": str(self.elsewhere), "CALLS": str(self.calls_file)}
        return fixed | {name: str(value) for name, value in variables.items()}

    def run(self, script: str, *arguments: str, **variables: object) -> subprocess.CompletedProcess:
        """`bash <script> <arguments>` from another directory, with only `variables` in the environment."""
        return subprocess.run(
            [BASH, self.root / script, *arguments],
            cwd=self.elsewhere,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def add_environment(self, prefix: Path, *has: str) -> Path:
        write_executable(prefix / "bin" / "python", STUB)
        for what in has:
            (prefix / "bin" / what).touch()
        return prefix

    def calls(self, pattern: str = "") -> list[str]:
        """The recorded lines that contain `pattern`: `interpreter|directory|argument|...|` or `pid=...`."""
        lines = self.calls_file.read_text(encoding="utf-8").splitlines() if self.calls_file.exists() else []
        return [line for line in lines if pattern in line]

    def training(self) -> list[str]:
        """Interpreter, directory and arguments of the one training that was started."""
        (line,) = self.calls("scripts/train.py|")
        return line.split("|")[:-1]

    def installs(self) -> int:
        return len(self.calls("|-m|pip|install|"))
