"""Precision of the towers in training, and the form of attention that is fastest at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether `trainer.precision` means bfloat16 towers on a device."""
    bf16_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16" or (precision == "auto" and bf16_gpu)


@contextlib.contextmanager
def fastest_attention(device: torch.device, *, bf16: bool) -> Iterator[None]:
    """Around forward and backward pass: the fastest attention.

    On a CPU, torch's fused attention converts bfloat16 back and forth: with 197 tokens its two passes take twice as
    long as plain matrix products, with 26 tokens four times.
    """
    if device.type != "cpu" or not bf16:
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # of a CPU, too, in spite of its name
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def allow_tf32(allowed: bool, *, device: torch.device) -> None:
    """Allow or forbid TF32 in float32 matrix products and convolutions, process-wide; geometry never uses it."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
