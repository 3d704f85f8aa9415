"""Functions that measure time and memory for the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_bytes(method: Callable, inputs: list[Tensor], backward: bool, device: str) -> int:
    """Peak memory of the tensors that the method allocates."""

    def run() -> None:
        with torch.set_grad_enabled(backward):
            result = method(*inputs)
        if backward:
            torch.autograd.grad(result, inputs, torch.ones_like(result), allow_unused=True)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with CountMemory(inputs) as memory:
        run()
    return memory.peak


class CountMemory(TorchDispatchMode):
    """Sums the live storages after every operation, because a CPU has no such statistic."""

    def __init__(self, outside: list[Tensor]):
        super().__init__()
        self.outside = {StorageWeakRef(tensor.untyped_storage()) for tensor in outside}
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        for storage in self.storages(result):
            reference = StorageWeakRef(storage)
            if reference not in self.outside:
                self.alive[reference] = storage.nbytes()
        self.peak = max(self.peak, sum(self.alive.values()))
        return result

    @staticmethod
    def storages(result) -> Iterator[torch.UntypedStorage]:
        return (leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


def matmul_teraflops(size: int, dtype: torch.dtype, device: str, *, tf32: bool = False, repeats: int = 10) -> float:
    """Median rate of a product of two random `(size, size)` matrices, in 10¹² floating-point operations a second."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        seconds = median_seconds(lambda: torch.mm(a, b, out=out), device, repeats=repeats)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * size**3 / seconds / 1e12


def copy_gigabytes(size: int, device: str, *, repeats: int = 10) -> float:
    """Median rate of a copy of `size` random bytes on the device, reads plus writes, in 10⁹ bytes a second."""
    source = torch.randint(0, 256, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, repeats=repeats) / 1e9


def median_seconds(work: Callable[[], object], device: str, *, warmup: int = 3, repeats: int = 10) -> float:
    """Median time of one call, measured with CUDA events on a GPU and with the clock elsewhere."""
    return statistics.median([seconds_of(work, device) for _ in range(warmup + repeats)][warmup:])


def interleaved_medians(
    works: list[Callable[[], object]], device: str, *, warmup: int = 1, repeats: int = 10
) -> list[float]:
    """Median times of several functions that are called in turn, so that a load on the machine meets all of them."""
    rounds = [[seconds_of(work, device) for work in works] for _ in range(warmup + repeats)][warmup:]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Time of one call."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
