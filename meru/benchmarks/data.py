"""Images per second on every way from JPEG files to batches of a model's inputs, as a Markdown table."""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms as v1
from torchvision.transforms import v2

from meru.benchmarks.measuring import synchronize
from meru.data.images import read_image
from meru.data.loading import collate
from meru.data.pairs import TrainingPairs, training_loader
from meru.data.pixels import CachedPixels, cached_pixels
from meru.data.records import ImageRecord
from meru.data.transforms import training_transform
from meru.errors import UserError
from meru.files import user_path
from meru.reports.tables import markdown_table
from meru.training.arriving import arriving

REFERENCE = "Pillow, torchvision v1 (published MERU)"
CACHED = 256  # shorter side of cached images
BATCH = 16
# Ways of this package, by the keys that choose them.
WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "decode=scaled": {"decode": "scaled"},
    "augment_on=device": {"augment_on": "device"},
    f"image_cache={CACHED}": {"cached": "yes"},
    f"image_cache={CACHED} augment_on=device": {"cached": "yes", "augment_on": "device"},
}
_CROP = {"scale": (0.5, 1.0), "interpolation": v1.InterpolationMode.BICUBIC}


def report(root: str | None, images: int, width: int, height: int, size: int, repeats: int, device: str) -> str:
    """Table of images per second of processor time on every way; all ways take turns.

    Args:
        root: A folder with JPEG files; also written `root=FOLDER`. None: photograph-like images are drawn.
        images: Number of images.
        width, height: Of drawn images, pixels.
        size: Side of the model's input.
        repeats: Rounds.
        device: `cpu`; the device's part of `augment_on=device` is not measured.

    Raises:
        UserError: if the folder has no JPEG file.
    """
    with tempfile.TemporaryDirectory() as temporary:
        paths = found_jpegs(root, images) if root else drawn_jpegs(Path(temporary), images, (height, width))
        rows = measure_ways(paths, Path(temporary), size=size, repeats=repeats)
        kibibytes = statistics.mean(path.stat().st_size for path in paths) / 2**10
    what = f"{len(paths)} JPEG files of {kibibytes:.0f} KiB on average" + ("" if root else f", {width} × {height}")
    note = (
        f"{what}, in memory by the second round, to batches of {BATCH} inputs of {size} × {size}. Images per second of "
        f"processor time of one process, median of {repeats} rounds in random order. Ways with `augment_on=device` "
        "leave resizing to the GPU."
    )
    cells = [[row["way"], f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}×"] for row in rows]
    return note + "\n\n" + markdown_table(["way", "images/s per core", "over the first"], cells)


def found_jpegs(root: str, images: int) -> list[Path]:
    """The first JPEG files of a folder and its subfolders, at most `images`.

    Raises:
        UserError: if there are none.
    """
    folder = user_path(root.removeprefix("root="))
    files = (each for each in sorted(folder.rglob("*")) if each.suffix.lower() in (".jpg", ".jpeg"))
    if not (paths := list(itertools.islice(files, images))):
        raise UserError(f"root={folder}: there is no JPEG file; name a folder that has some")
    return paths


def drawn_jpegs(folder: Path, images: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files of quality 90 with details of all sizes, as in photographs, which have about 70 KiB at 500 × 375."""
    generator, paths = torch.Generator().manual_seed(0), []
    for number in range(images):
        picture = torch.zeros(1, 3, *size)
        for octave in range(1, 10):
            cells = [max(2, side >> (9 - octave)) for side in size]
            noise = torch.rand(1, 3, *cells, generator=generator) - 0.5
            picture += F.interpolate(noise, size, mode="bicubic") * 0.75**octave
        pixels = (picture / picture.std() * 50 + 128).clamp(0, 255).byte()[0].permute(1, 2, 0)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.numpy()).save(paths[-1], quality=90)
    return paths


def pairs_of(paths: Sequence[Path], way: dict[str, str], size: int, pixels: CachedPixels) -> dict:
    """Arguments of `TrainingPairs` for a way, with captions that take no time."""
    options = {name: value for name, value in way.items() if name != "cached"}
    return {
        "records": [ImageRecord(path, 0, ("",)) for path in paths],
        "transform": training_transform(size),
        "tokenize": lambda caption: torch.ones(2, dtype=torch.int64),
        "seed": 0,
        "pixels": pixels if way.get("cached") else None,
        **options,
    }


def pixels_of(paths: Sequence[Path], folder: Path) -> CachedPixels:
    """The images in a cache."""
    reading = {"on_error": "raise", "maximum_pixels": 10**9, "decode": "exact"}
    return cached_pixels(paths, side=CACHED, folder=folder, reading=reading, workers={"workers": 0, "timeout": 600})


def measure_ways(paths: Sequence[Path], folder: Path, *, size: int, repeats: int) -> list[dict]:
    """Images per second of every way in this process, the reference first, then ours, then bounds.

    Returns:
        For each `way`, `images_per_second` and its `ratio` to the reference's, the median of the rounds.
    """
    published = v1.Compose([v1.RandomResizedCrop(size, **_CROP), v1.RandomHorizontalFlip(), v1.ToTensor()])
    tensors = v2.Compose([v2.RandomResizedCrop(size, **_CROP), v2.RandomHorizontalFlip()])
    pixels = pixels_of(paths, folder)
    decoded = [read_image(path) for path in paths]
    ways: dict[str, Callable[[int], object]] = {
        REFERENCE: lambda index: published(Image.open(paths[index]).convert("RGB")),
        "fast decoder, torchvision v2": lambda index: tensors(read_image(paths[index])).contiguous(),
    }
    batches = {name: _one_by_one(way) for name, way in ways.items()}
    for name, way in WAYS.items():
        batches[f"ours, {name}"] = _by_batches(TrainingPairs(**pairs_of(paths, way, size, pixels)))
    bounds: dict[str, Callable[[int], Tensor]] = {
        "bound: decoding alone": lambda index: read_image(paths[index]),
        "bound: copying decoded images": lambda index: decoded[index].clone(),
    }
    batches |= {name: lambda keys, way=way: [way(key) for key in keys] for name, way in bounds.items()}
    return _taking_turns(batches, images=len(paths), repeats=repeats)


def _one_by_one(way: Callable[[int], Tensor]) -> Callable[[Sequence[int]], Tensor]:
    return lambda keys: torch.stack([way(key) for key in keys])


def _by_batches(data: TrainingPairs) -> Callable[[Sequence[int]], object]:
    return lambda keys: collate(data.__getitems__([(0, key) for key in keys]))


def _taking_turns(ways: dict[str, Callable[[Sequence[int]], object]], *, images: int, repeats: int) -> list[dict]:
    rates = defaultdict(list)
    for _ in range(repeats + 1):
        for name in random.sample(sorted(ways), len(ways)):
            began = time.process_time()  # other programs on a busy machine do not count
            for first in range(0, images, BATCH):
                ways[name](range(first, min(first + BATCH, images)))
            rates[name].append(images / (time.process_time() - began))
    rows = []
    for name in ways:
        rounds = list(zip(rates[name], rates[REFERENCE], strict=True))[1:]
        ratio = statistics.median(rate / base for rate, base in rounds)
        rows.append({"way": name, "images_per_second": statistics.median(rate for rate, _ in rounds), "ratio": ratio})
    return rows


def loader_rates(
    paths: Sequence[Path], folder: Path, *, size: int, batch: int, workers: int, steps: int, device: str
) -> list[dict]:
    """Images per second that the training loader brings to the device on every way of this package.

    Args:
        paths: At least as many images as a batch has.
        folder: For the cache.
        size: Side of the model's input.
        batch: Images per batch.
        workers: Processes.
        steps: Batches that are timed, after as many as each worker reads ahead.

    Returns:
        For each `way`, `images_per_second`.
    """
    pixels, rows = pixels_of(paths, folder), []
    begin = 2 * max(1, workers)
    for name, way in WAYS.items():
        options = pairs_of(paths, way, size, pixels)
        loader = training_loader(batch_size=batch, total_steps=begin + steps, workers=workers, **options)
        stream = arriving(loader, torch.device(device))
        for _ in range(begin):
            next(stream)
        synchronize(device)
        began = time.perf_counter()
        for given in stream:
            given["image"].float().mean()
        synchronize(device)
        rows.append({"way": name, "images_per_second": steps * batch / (time.perf_counter() - began)})
    return rows
