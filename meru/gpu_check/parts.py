"""The parts of the GPU check, each run in its own process:

    python -m meru.gpu_check.parts PART --device cuda|cpu --output FILE --folder FOLDER [--smoke]

A part writes its figures to FILE as it measures them, so that they survive a crash or a time-out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from meru.files import PROJECT, write_text
from meru.run_layout import FIGURES as TEST
from meru.run_layout import METRICS

TINY = ["encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W64_A2"]
VIT_BASE = ["encoder=vit_base", "encoder.text.architecture=L12_W512"]
GAHR = ["experiment=cuhk_pedes_gahr", "+encoder.image.random_weights=true", "+encoder.text.random_weights=true"]
SMALL_GAHR = ["experiment=pedestrians_gahr", "encoder.image.image_size=32", "encoder.text.architecture=L1_W64_A2"]
DINO_VIT_B16 = ["encoder=dino_vitb16", "encoder.image.pretrained=false"]


@dataclass(kw_only=True)
class Part:
    """Arguments of a part.

    Attributes:
        device: `cuda`, or `cpu` in a smoke run.
        smoke: Whether to use tiny sizes, for a CPU.
        folder: Folder for temporary files.
        output: File that `keep` writes.
    """

    device: str
    smoke: bool
    folder: Path
    output: Path

    def keep(self, figures: dict) -> None:
        """Write the figures, replacing earlier ones."""
        write_text(self.output, json.dumps(figures))


def environment(part: Part) -> None:
    """Versions, and measured rates of the machine."""
    import torch

    from meru.benchmarks.machine import cpu_name
    from meru.benchmarks.measuring import copy_gigabytes, matmul_teraflops
    from meru.runs.folder import commit

    cuda = part.device == "cuda"
    figures: dict = {
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "commit": commit(),
    }
    if cuda:
        properties = torch.cuda.get_device_properties(0)
        figures |= {
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": driver_version(),
            "bf16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    part.keep(figures)
    size = 128 if part.smoke else 8192
    for name, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        figures[f"{name}_teraflops"] = matmul_teraflops(size, dtype, part.device, tf32=tf32)
        part.keep(figures)
    figures["copy_gigabytes"] = copy_gigabytes(2**16 if part.smoke else 2**32, part.device)
    part.keep(figures)


def driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return lines[0].strip() if lines else None


def tests(part: Part) -> None:
    """The tests that need a GPU, except those of the compiler; without one, all are skipped."""
    run_tests(part, "not compiled")


def compiler_tests(part: Part) -> None:
    """The tests of torch.compile, which take longer than all others together."""
    run_tests(part, "compiled")


def run_tests(part: Part, names: str) -> None:
    """Run the GPU tests whose names fit pytest's expression; the log has a line per test, also if time runs out."""
    files = sorted(path for path in (PROJECT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8"))
    summary = part.output.with_suffix(".xml")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", names, "-p", "no:cacheprovider", "-v"]
    command += ["--durations=10", f"--junitxml={summary}", *map(str, files)]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "0"]
    settings = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    done = subprocess.run(command, cwd=PROJECT, env=settings, check=False)
    counts: dict[str, int] = {}
    if summary.exists():
        suite = ElementTree.parse(summary).find("testsuite")
        counts = {kind: int(suite.get(kind)) for kind in ("failures", "errors", "skipped")}
        counts["passed"] = int(suite.get("tests")) - sum(counts.values())
    part.keep({"exit_code": done.returncode, **{kind: number for kind, number in counts.items() if number}})
    if done.returncode not in ((0, 5) if part.smoke else (0,)):  # 5: no tests
        sys.exit(f"pytest ended with exit code {done.returncode}")


def steps(part: Part) -> None:
    """Training steps of MERU and CLIP, also compiled, compared with open_clip's, in bf16."""
    from meru.benchmarks.step import measure_steps

    clip = tiny_open_clip(part.folder) if part.smoke else "ViT-B-16"
    towers, batch = (TINY, 2) if part.smoke else (VIT_BASE, 256)
    compiled = [] if part.smoke else ["meru, towers", "meru, graphs", "clip, graphs"]  # compiling takes a minute
    rows = measure_steps(
        towers, batch, rounds(part), part.device, "bf16", "image-text", models=["clip", "meru", *compiled],
        open_clip=clip,
    )  # fmt: skip
    part.keep({"batch": batch, "towers": towers, "precision": "bf16", "rows": rows})


def tiny_open_clip(folder: Path) -> str:
    """Register a tiny model with open_clip, whose own are too large for a smoke run; returns its name."""
    import open_clip

    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    image = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
    file = folder / "tiny.json"
    file.write_text(json.dumps({"embed_dim": 64, "vision_cfg": image, "text_cfg": text}), encoding="utf-8")
    open_clip.add_model_config(file)
    return file.stem


def gahr(part: Part) -> None:
    """GAHR's recipe on towers of CLIP's shape, batch 80: speed, memory, memory growth and finite losses."""
    import time

    import torch

    from meru.benchmarks.measuring import synchronize
    from meru.benchmarks.step import allocated, captions_like_ours, training_step

    number, batch = (6, 2) if part.smoke else (200, 80)
    recipe = SMALL_GAHR if part.smoke else GAHR
    # The learning rate at the start of the warm-up, at which towers with random weights stay finite.
    step = training_step([*recipe, "optim.learning_rate=8e-6"], batch, part.device, "bf16", clip_gradient_norm=1.0)
    losses, warmup = [], max(1, number // 10)
    figures = {"batch": batch, "recipe": recipe, "precision": "bf16"}
    for index in range(number):
        if index == warmup:
            synchronize(part.device)
            settled, start = allocated(part.device), time.perf_counter()
        captions = captions_like_ours(batch, seed=index)  # lengths vary between steps
        losses.append(step(tokens=step.tokenizer.batch(captions)))
        if index == warmup or index == number - 1:
            synchronize(part.device)
            done = index - warmup + 1
            figures |= {
                "steps": index + 1,
                "images_per_second": done * batch / (time.perf_counter() - start),
                "first_loss": losses[0].item(),
                "last_loss": losses[-1].item(),
                "grown_bytes": allocated(part.device) - settled,
            }
            if part.device == "cuda":
                figures["peak_bytes"] = torch.cuda.max_memory_allocated()
            part.keep(figures)
    if not torch.stack(losses).isfinite().all():
        sys.exit("a loss is not finite")
    if figures["grown_bytes"] > 2**20 * 16:
        sys.exit(f"memory grew by {figures['grown_bytes']} bytes")


def discovery(part: Part) -> None:
    """Steps of SimGCD and HypGCD in float32, and with TF32 matrix products."""
    import torch

    from meru.benchmarks.step import measure_steps

    towers, batch = (["encoder=small", "encoder.image.image_size=32"], 4) if part.smoke else (DINO_VIT_B16, 128)
    figures: dict = {"batch": batch, "towers": towers, "rows": []}
    for precision, choice in (("fp32", "highest"), ("TF32", "high")):
        torch.set_float32_matmul_precision(choice)
        rows = measure_steps(
            towers, batch, rounds(part), part.device, "fp32", "discovery", models=["simgcd", "hypgcd"]
        )
        figures["rows"] += [{**row, "precision": precision} for row in rows]
        part.keep(figures)


def loss(part: Part) -> None:
    """The losses without towers at a large batch size, in all forms, and by tiles at a very large one."""
    from meru.benchmarks.loss import measure_losses

    batch, huge, dimension = (64, 96, 16) if part.smoke else (16_384, 65_536, 512)
    rows = measure_losses(batch, dimension, 1 if part.smoke else 5, part.device)
    figures = {"batch": batch, "dimension": dimension, "rows": rows, "huge_batch": huge, "huge_rows": []}
    part.keep(figures)
    figures["huge_rows"] = measure_losses(huge, dimension, 1, part.device, only="tiled")
    part.keep(figures)


def data(part: Part) -> None:
    """What the loader brings to the device on every way, beside what a step of ViT-B/16 takes."""
    from meru.benchmarks.data import drawn_jpegs, loader_rates
    from meru.benchmarks.step import measure_steps

    size, batch, steps, images = (32, 4, 2, 8) if part.smoke else (224, 256, 24, 256)
    towers, workers = TINY if part.smoke else VIT_BASE, 0 if part.smoke else min(16, os.cpu_count() or 1)
    (folder := part.folder / "jpegs").mkdir()
    paths = drawn_jpegs(folder, images, (60, 80) if part.smoke else (375, 500))
    figures: dict = {"batch": batch, "workers": workers, "towers": towers, "precision": "bf16"}
    (step,) = measure_steps(towers, batch, rounds(part), part.device, "bf16", "image-text", models=["meru"])
    figures["step_images_per_second"] = step["images_per_second"]
    part.keep(figures)
    figures["rows"] = loader_rates(
        paths, part.folder, size=size, batch=batch, workers=workers, steps=steps, device=part.device
    )
    part.keep(figures)


FIGURES = ("zero_shot/accuracy@1", "text_to_image/class/recall@1", "image_to_text/class/recall@1")


def training(part: Part) -> None:
    """MERU and CLIP on synthetic birds, from the generation of the data to the figures on the test split."""
    few = [
        *("trainer.epochs=1", "data.batch_size=16", "data.workers=0", "+data.load.images_per_species=4"),
        *("encoder.image.image_size=32", "encoder.text.architecture=L1_W64_A2", "evaluation.pointing=false"),
    ]
    size = few if part.smoke else ["trainer.epochs=8", "trainer.evaluate_every=4", "data.workers=8"]
    rows = []
    for model in ("meru", "clip"):
        run = part.folder / model
        command = [sys.executable, str(PROJECT / "scripts" / "train.py"), f"experiment=birds_{model}", "logger=none"]
        subprocess.run([*command, *size, f"data.root={part.folder / 'birds'}", f"folder={run}"], check=True)
        lines = [json.loads(line) for line in (run / METRICS).read_text("utf-8").splitlines()]
        speeds = [line["images_per_second"] for line in lines if "images_per_second" in line]
        test = json.loads((run / TEST).read_text("utf-8"))
        rows.append({"model": model, "images_per_second": max(speeds, default=None), **{k: test[k] for k in FIGURES}})
        rows[-1] |= {"chance": {name: test[name.replace("/accuracy", "/chance_accuracy").replace(
            "/recall", "/chance_recall")] for name in FIGURES}}  # fmt: skip
        part.keep({"overrides": size, "rows": rows})


def rounds(part: Part) -> int:
    return 1 if part.smoke else 10


PARTS: dict[str, Callable[[Part], None]] = {
    function.__name__: function
    for function in (environment, tests, steps, gahr, discovery, loss, data, training, compiler_tests)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    given = vars(parser.parse_args())
    PARTS[given.pop("part")](Part(**given))


if __name__ == "__main__":
    main()
