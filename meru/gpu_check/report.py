"""The Markdown report of the GPU check, from its results."""

from __future__ import annotations

from collections.abc import Callable

from meru.reports.tables import markdown_table


def report(results: dict) -> str:
    """A table of the status of all parts, then the tables of those with figures."""
    parts = results["parts"]
    title = "# GPU check" + (" (smoke run on the CPU: the figures have no meaning)" if results["smoke"] else "")
    rows = [[name, part["status"], f"{part['seconds']:.0f} s"] for name, part in parts.items()]
    sections = [title, markdown_table(["part", "status", "time"], rows)]
    machine = parts.get("environment", {}).get("figures", {})
    for name, write in SECTIONS.items():
        figures = parts.get(name, {}).get("figures")
        if figures:
            sections += write(figures, machine)
    return "\n\n".join(sections) + "\n"


def environment(figures: dict, machine: dict) -> list[str]:
    names = ("device", "driver", "torch", "cuda", "cudnn", "python", "bf16", "commit")
    facts = [f"{name} {figures[name]}" for name in names if figures.get(name) is not None]
    rates = {
        "matrix product, bf16": ("bf16_teraflops", "TFLOP/s"),
        "matrix product, TF32": ("tf32_teraflops", "TFLOP/s"),
        "matrix product, float32": ("fp32_teraflops", "TFLOP/s"),
        "copy, reads plus writes": ("copy_gigabytes", "GB/s"),
    }
    rows = [[what, f"{figures[key]:.0f} {unit}"] for what, (key, unit) in rates.items() if key in figures]
    return ["## Machine", ", ".join(facts), markdown_table(["measured", "rate"], rows)]


def tests(figures: dict, machine: dict) -> list[str]:
    counts = [f"{number} {kind}" for kind, number in figures.items() if kind != "exit_code"]
    return ["## Tests that need a GPU", ", ".join(counts) or f"exit code {figures['exit_code']}"]


def compiler_tests(figures: dict, machine: dict) -> list[str]:
    return ["## Tests of the compiler", *tests(figures, machine)[1:]]


def steps(figures: dict, machine: dict) -> list[str]:
    note = f"{' '.join(figures['towers'])}, batch {figures['batch']}, {figures['precision']}"
    note += "; captions of 8 to 24 words, which open_clip pads to 77 tokens"
    return ["## Training step", note, step_table(figures["rows"])]


def step_table(rows: list[dict]) -> str:
    lines = [
        [
            row["model"] + (f", {row['precision']}" if "precision" in row else ""),
            f"{1000 * row['seconds']:.0f} ms",
            f"{row['ratio']:.2f}×",
            f"{row['images_per_second']:.0f}",
            gibibytes(row),
            f"{100 * row['teraflops'] / row['product_teraflops']:.0f} %",
        ]
        for row in rows
    ]
    return markdown_table(["model", "step", "ratio", "images/s", "peak memory", "of the matmul rate"], lines)


def gibibytes(row: dict) -> str:
    return f"{row['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in row else "–"


def gahr(figures: dict, machine: dict) -> list[str]:
    row = [
        f"{figures['images_per_second']:.0f}",
        gibibytes(figures),
        f"{figures['grown_bytes'] / 2**20:.1f} MiB",
        f"{figures['first_loss']:.2f} → {figures['last_loss']:.2f}",
    ]
    note = f"{' '.join(figures['recipe'])}, batch {figures['batch']}, {figures['steps']} steps, {figures['precision']}"
    return ["## GAHR", note, markdown_table(["images/s", "peak memory", "growth", "loss"], [row])]


def discovery(figures: dict, machine: dict) -> list[str]:
    note = f"{' '.join(figures['towers'])}, batch {figures['batch']}, two views of every image; ratio to SimGCD's step"
    return ["## Category discovery", note, step_table(figures["rows"])]


def loss(figures: dict, machine: dict) -> list[str]:
    rows = [
        [f"{batch:,}", row["model"], f"{row['loss']:.4f}", f"{1000 * row['seconds']:.1f} ms", gibibytes(row)]
        for batch, rows in ((figures["batch"], figures["rows"]), (figures["huge_batch"], figures["huge_rows"]))
        for row in rows
    ]
    note = f"Forward and backward from features, D = {figures['dimension']}"
    return ["## Losses", note, markdown_table(["B", "loss", "value", "time", "peak memory"], rows)]


def data(figures: dict, machine: dict) -> list[str]:
    step = figures["step_images_per_second"]
    rows = [
        [f"data.{row['way']}" if "=" in row["way"] else row["way"], f"{row['images_per_second']:.0f}",
         f"{row['images_per_second'] / step:.2f}×"]
        for row in figures.get("rows", ())
    ]  # fmt: skip
    note = (
        f"JPEG files of 500 × 375, batches of {figures['batch']} on the device, {figures['workers']} workers; "
        f"MERU's step ({' '.join(figures['towers'])}, {figures['precision']}) takes {step:.0f} images/s"
    )
    return ["## Images", note, markdown_table(["way", "images/s", "over the step"], rows)]


def training(figures: dict, machine: dict) -> list[str]:
    names = [name for name in figures["rows"][0]["chance"]]
    rows = [
        [
            row["model"],
            *(f"{100 * row[name]:.1f} % ({100 * row['chance'][name]:.1f})" for name in names),
            f"{row['images_per_second']:.0f}" if row["images_per_second"] else "–",
        ]
        for row in figures["rows"]
    ]
    note = f"Synthetic birds, {' '.join(figures['overrides'])}; test split, chance in brackets"
    return ["## Training", note, markdown_table(["model", *names, "images/s"], rows)]


SECTIONS: dict[str, Callable[[dict, dict], list[str]]] = {
    "environment": environment,
    "tests": tests,
    "steps": steps,
    "compiler_tests": compiler_tests,
    "gahr": gahr,
    "discovery": discovery,
    "loss": loss,
    "data": data,
    "training": training,
}
