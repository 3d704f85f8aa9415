"""Measure, and print Markdown: `python scripts/benchmark.py geometry|step|retrieval [--output FILE]`.

geometry    accuracy and speed of hyperbolic distances beside the published form and geoopt's
step        a training step of every model on the same towers, as a multiple of MERU's; what follows are overrides:
            `python scripts/benchmark.py step encoder=mobilenetv2 encoder.image.patch_level=3`
retrieval   time and memory of the ranking figures at the size of the test split of ICFG-PEDES
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from meru.files import write_text

PROJECT = Path(__file__).resolve().parent.parent
# glibc hands big tensors back to the kernel, and page faults then take longer than the mathematics.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def main() -> None:
    arguments = parse_arguments()
    if arguments.device == "cpu" and sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_MEMORY})
    report = arguments.run(arguments)
    print(report)
    if arguments.output:
        write_text(arguments.output, report + "\n")


def parse_arguments() -> argparse.Namespace:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(required=True, metavar="geometry|step|retrieval")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    common.add_argument("--threads", type=positive, default=1, help="CPU threads (default 1)")
    common.add_argument("--output", type=Path, help="write the Markdown here, too")

    geometry = commands.add_parser("geometry", parents=[common], help="distances: accuracy and speed")
    geometry.add_argument("--batch", type=positive, default=4096, help="points on each side (default 4096)")
    geometry.add_argument("--dimension", type=positive, default=512, help="D (default 512)")
    geometry.set_defaults(run=geometry_report)

    step = commands.add_parser("step", parents=[common], help="a training step of every model")
    step.add_argument("--batch", type=positive, default=16, help="images (default 16)")
    step.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers (default fp32)")
    step.add_argument("--task", choices=("image-text", "discovery"), default="image-text")
    step.add_argument("--model", action="append", help="only this one; may be given several times (default all)")
    step.add_argument("--open-clip", metavar="NAME", help="beside the step of this open_clip model, say ViT-B-16")
    step.add_argument("encoder", nargs="*", default=["encoder=vit_small"], help="overrides (default encoder=vit_small)")
    step.set_defaults(run=step_report)

    retrieval = commands.add_parser("retrieval", parents=[common], help="ranking figures of a large test split")
    retrieval.add_argument("--size", type=positive, default=19_848, help="queries, and gallery (default 19848)")
    retrieval.add_argument("--dimension", type=positive, default=512, help="D (default 512)")
    retrieval.add_argument("--identities", type=positive, default=1000, help="different labels (default 1000)")
    retrieval.set_defaults(run=retrieval_report)
    for command, repeats in ((geometry, 7), (step, 7), (retrieval, 1)):
        explanation = f"rounds; their median counts (default {repeats})"
        command.add_argument("--repeats", type=positive, default=repeats, help=explanation)
    arguments = parser.parse_args()
    if arguments.run is step_report:
        check_models(parser, arguments)
    if arguments.output and not arguments.output.absolute().parent.is_dir():
        parser.error(f"no such folder: {arguments.output.parent}")
    return arguments


def check_models(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with one line for a model that the task has not."""
    if arguments.open_clip and arguments.task == "discovery":
        parser.error("--open-clip: for --task image-text only")
    if arguments.model:
        from benchmark_step import DISCOVERY, MODELS

        known = DISCOVERY if arguments.task == "discovery" else MODELS
        for name in arguments.model:
            if name not in known:
                parser.error(f"--model {name}: choose among {', '.join(map(repr, known))}")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def geometry_report(arguments: argparse.Namespace) -> str:
    """Both tables of `benchmark_geometry`, under a line that says where they were measured."""
    machine = machine_line(arguments)
    from benchmark_geometry import accuracy_table, speed_table  # torch, mpmath and geoopt: not for --help

    sections = [
        "## Geometry",
        machine,
        "### Accuracy",
        accuracy_table(),
        "### Speed of all-pairs distances",
        speed_table(arguments.batch, arguments.dimension, arguments.repeats, arguments.device),
    ]
    return "\n\n".join(sections)


def step_report(arguments: argparse.Namespace) -> str:
    """The table of `benchmark_step`, under a line that says where it was measured."""
    machine = machine_line(arguments)
    from benchmark_step import step_table

    encoder, precision = list(arguments.encoder), arguments.precision
    sizes = arguments.batch, arguments.repeats, arguments.device
    extra = {"models": arguments.model, "open_clip": arguments.open_clip}
    table = step_table(encoder, *sizes, precision, arguments.task, **extra)
    return "\n\n".join(["## Training step", machine, table])


def retrieval_report(arguments: argparse.Namespace) -> str:
    """The table of `benchmark_retrieval`, under a line that says where it was measured."""
    machine = machine_line(arguments)
    from benchmark_retrieval import retrieval_table

    size, dimension, identities = arguments.size, arguments.dimension, arguments.identities
    table = retrieval_table(size, dimension, identities, arguments.repeats, arguments.device)
    return "\n\n".join(["## Retrieval", machine, table])


def machine_line(arguments: argparse.Namespace) -> str:
    """Versions, device, threads and commit; sets the threads."""
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("no CUDA device here: leave out --device cuda")
        device = torch.cuda.get_device_name()
    else:
        device = cpu_name()
    settings = " ".join(f"{name}={os.environ[name]}" for name in KEEP_MEMORY if name in os.environ)
    threads = f"threads: {arguments.threads}"
    parts = [f"torch {torch.__version__}", device, threads, f"commit {commit()}", settings]
    return ", ".join(part for part in parts if part)


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the checkout, "unknown" outside git."""
    command = ["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
