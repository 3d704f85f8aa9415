"""Tiny shards for tests."""

import io
import itertools
import json
import tarfile

from PIL import Image

SIZES = (7, 5, 9, 6, 8, 4)


def picture(shade=0):
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, 40, 40)).save(content, "PNG")
    return content.getvalue()


def write_tar(path, samples):
    """A tar file of samples, key → ending → content."""
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for ending, content in files.items():
                content = content if isinstance(content, bytes) else str(content).encode()
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder, sizes=SIZES):
    """Shards whose captions number the samples."""
    numbers = itertools.count()
    for shard, size in enumerate(sizes):
        samples = {}
        for sample in range(size):
            number = next(numbers)
            files = {"png": picture(number), "txt": number, "json": json.dumps({"caption": [f"c {number}", "other"]})}
            samples[f"{shard:02d}{sample:03d}"] = files
        write_tar(folder / f"{shard:05d}.tar", samples)
    return f"{folder}/{{00000..{len(sizes) - 1:05d}}}.tar"
