"""Run a benchmark and print Markdown: `python scripts/benchmark.py NAME [--output FILE]`.

geometry    accuracy and speed of hyperbolic distances and of operations on pairs of points, compared with the
            published forms and geoopt
loss        the losses of CLIP, MERU and SMS without towers: published form, whole matrices, by tiles
step        a training step of every model on the same towers, relative to MERU's; other words are overrides:
            `python scripts/benchmark.py step encoder=mobilenetv2 encoder.image.patch_level=3`
data        images per second of a core on every way from JPEG files to a model's inputs; your own files:
            `python scripts/benchmark.py data root=FOLDER`
startup     seconds from a command to its answer and to the first training step, in fresh processes
retrieval   time and memory of the ranking figures at the size of the test split of ICFG-PEDES
search      one search among a million points: the exact scan beside FAISS
page        latency and memory of the search page with many clients at once:
            `python scripts/benchmark.py page index=FOLDER`
latency     from a query to its rank list in galleries of any size, with many clients, exact and approximate, and what
            a camera network of a city would need; words, each with its default:
            `python scripts/benchmark.py latency rows=10000,100000,1000000 dimension=256 clients=1,8,64 queries=200`
            more: rounds=3 seconds=15 threads=1,all device=auto|cpu|cuda approximate=ivf|hnsw|none spaces=lorentz,cosine
            tower=L3_W192_A3 folder=FOLDER output=FILE.md cameras=10000 persons=100 days=30 city_queries=1000 answer=1
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru import stopping
from meru.benchmarks.asked_latency import asked_latency
from meru.command_line import keep_freed_memory, one_line_errors
from meru.files import write_text

OF_MODEL = "only this model; may be repeated (default all); compiled as in 'meru, towers' (or graphs, model)"


def main() -> None:
    """Read the command line, measure, print the report."""
    with one_line_errors(), stopping.listening():
        arguments = parse_arguments()
        report = report_of(arguments)
        print(report)
        if arguments.output:
            write_text(arguments.output, report + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line as argparse reads it."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    names = "geometry|loss|step|data|startup|retrieval|search|page|latency"
    commands = parser.add_subparsers(required=True, metavar=names, dest="command")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    common.add_argument("--threads", type=positive, default=1, help="CPU threads (default 1)")
    common.add_argument("--output", type=Path, help="also write the Markdown to this file")

    geometry = commands.add_parser("geometry", parents=[common], help="distances and pairs: accuracy and speed")
    geometry.add_argument("--batch", type=positive, default=4096, help="points on each side, and pairs (default 4096)")
    geometry.add_argument("--dimension", type=positive, default=512, help="D (default 512)")

    loss = commands.add_parser("loss", parents=[common], help="losses of a large batch")
    loss.add_argument("--batch", type=positive, default=4096, help="images (default 4096)")
    loss.add_argument("--dimension", type=positive, default=512, help="D (default 512)")
    loss.add_argument("--only", choices=("tiled", "whole matrix", "published form"), help="only this form of each loss")

    step = commands.add_parser("step", parents=[common], help="a training step of every model")
    step.add_argument("--batch", type=positive, default=16, help="images (default 16)")
    step.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the towers (default fp32)")
    step.add_argument("--task", choices=("image-text", "discovery"), default="image-text")
    step.add_argument("--model", action="append", help=OF_MODEL)
    step.add_argument("--open-clip", metavar="NAME", help="also measure this open_clip model")
    step.add_argument("encoder", nargs="*", default=["encoder=vit_small"], help="overrides (default encoder=vit_small)")

    data = commands.add_parser("data", parents=[common], help="ways from JPEG files to a model's inputs")
    data.add_argument("root", nargs="?", help="folder of JPEG files (default: images are drawn)")
    data.add_argument("--images", type=positive, default=64, help="how many (default 64)")
    data.add_argument("--width", type=side, default=500, help="of drawn images, pixels (default 500)")
    data.add_argument("--height", type=side, default=375, help="of drawn images, pixels (default 375)")
    data.add_argument("--size", type=side, default=224, help="side of the model's input (default 224)")

    retrieval = commands.add_parser("retrieval", parents=[common], help="ranking figures of a large test split")
    retrieval.add_argument("--size", type=positive, default=19_848, help="queries, and gallery (default 19848)")
    retrieval.add_argument("--dimension", type=positive, default=512, help="D (default 512)")
    retrieval.add_argument("--identities", type=positive, default=1000, help="different labels (default 1000)")

    startup = commands.add_parser("startup", parents=[common], help="from a command to its answer")

    search, page = add_searches(commands, common)
    several = ((geometry, 7), (loss, 3), (step, 7), (data, 7), (startup, 5), (retrieval, 1), (search, 3), (page, 2))
    for command, repeats in several:
        explanation = f"rounds of measurement (default {repeats})"
        command.add_argument("--repeats", type=positive, default=repeats, help=explanation)
    arguments = parser.parse_args()
    if arguments.command == "latency":
        arguments.asked = asked_latency(arguments.words)
        arguments.output = arguments.asked.output
    elif arguments.output:
        check_output(arguments.output, parser)
    return arguments


def add_searches(
    commands: argparse._SubParsersAction, common: argparse.ArgumentParser
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add the commands about searches; returns the parsers of those that take --repeats, `search` and `page`."""
    search = commands.add_parser("search", parents=[common], help="one search among a million points")
    search.add_argument("--size", type=positive, default=1_000_000, help="points (default 1000000)")
    search.add_argument("--dimension", type=positive, default=512, help="D (default 512)")
    search.add_argument("--approximate", action="store_true", help="also FAISS's ivf and hnsw; takes minutes")

    page = commands.add_parser("page", parents=[common], help="the search page under load")
    page.add_argument("index", help="folder of an index, as scripts/index.py writes it")
    page.add_argument("--clients", type=positive, default=200, help="clients at once (default 200)")
    page.add_argument("--requests", type=positive, default=50, help="of a single client (default 50)")

    latency = commands.add_parser("latency", help="from a query to its rank list, with many clients")
    latency.add_argument("words", nargs="*", metavar="key=value", help="see --help of this script")
    return search, page


def check_output(output: Path, parser: argparse.ArgumentParser) -> None:
    """Leave with the parser's error unless a Markdown file can be written there."""
    if not output.absolute().parent.is_dir():
        parser.error(f"no such folder: {output.parent}")
    if output.is_dir() or output.suffix not in (".md", ".txt"):
        parser.error(f"--output {output}: name a Markdown file, such as report.md")


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def side(text: str) -> int:
    """Parse the side of an image, pixels: JPEG files have at most 65,535, and memory is bounded."""
    number = positive(text)
    if number > 16_384:
        raise argparse.ArgumentTypeError(f"{number}: give at most 16384 pixels")
    return number


def report_of(arguments: argparse.Namespace) -> str:
    """The report of a command, with a description of the machine."""
    keep_freed_memory()
    from meru.benchmarks.machine import machine_line  # slow to import, so not for --help

    if arguments.command == "latency":
        from meru.benchmarks.latency import cores_here, report

        asked = arguments.asked
        measured = report(asked)  # first, as it sets other numbers of threads
        where = machine_line("cuda" if asked.device == "cuda" else "cpu", cores_here())
        return "\n\n".join(["## Latency of searches", where, measured])
    given = {key: value for key, value in vars(arguments).items() if key != "output"}
    command, threads = given.pop("command"), given.pop("threads")
    where = machine_line(given["device"], threads)
    report = importlib.import_module(f"meru.benchmarks.{command}").report
    titles = {
        "geometry": "Geometry", "loss": "Losses", "step": "Training step", "data": "Images", "startup": "Start-up",
        "retrieval": "Retrieval", "search": "Search among many points", "page": "Search page",
    }  # fmt: skip
    title = titles[command]
    return "\n\n".join([f"## {title}", where, report(**given)])


if __name__ == "__main__":
    main()
