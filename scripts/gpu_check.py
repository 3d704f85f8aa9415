"""Run meru's GPU tests, benchmarks and a short training on a GPU, each with a time limit, in at most nine minutes.

    bash scripts/gpu_check.sh OUT [--smoke] [--wheels FOLDER]

Nothing is downloaded or installed into the environment: missing packages come from wheels (see
scripts/carry_wheels.sh), unpacked into a temporary folder. A part that fails or takes too long does not stop the next.
OUT/results.json is updated after each part.

Exit code: 0 if every part passed, 1 if a part failed, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # works without an installed package

from meru.gpu_check.check import leave, run_check  # noqa: E402


def main() -> None:
    """Read the command line and run the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the results")
    parser.add_argument("--smoke", action="store_true", help="the same parts on the CPU, at tiny sizes")
    parser.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="wheels of missing packages (default .wheels of the checkout)"
    )
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    if out.exists() and not out.is_dir():
        leave(f"{out} is not a folder")
    if arguments.wheels and not arguments.wheels.is_dir():
        leave(f"--wheels: no folder {arguments.wheels}")
    passed = run_check(out, smoke=arguments.smoke, wheels=arguments.wheels or PROJECT / ".wheels")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
