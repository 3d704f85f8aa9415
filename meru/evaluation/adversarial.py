"""Attacks on images: changes of at most ε per pixel value (L∞) that lower the score of what is right.

PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018. APGD-CE and APGD-DLR, the
first two parts of AutoAttack: Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
Parameter-free Attacks", ICML 2020; written from the paper.

An image may have several right candidates, such as its captions: their scores are taken together.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from meru.errors import UserError

Scores = Callable[[Tensor], Tensor]  # images (B, 3, S, S), floating point in [0, 1] → scores (B, K)
Objective = Callable[[Tensor, Tensor], Tensor]  # scores (B, K), right (B, K) → (B,), higher is a better attack
MOMENTUM = 0.75  # α of APGD
ENOUGH = 0.75  # ρ of APGD: share of steps that must raise the objective, or the step size is halved
PGD_REACH = 2.5  # the steps of PGD add up to this many times ε


def cross_entropy(scores: Tensor, right: Tensor) -> Tensor:
    """−log of the probability of all right candidates together.

    Args:
        scores: Logits `(B, K)`.
        right: bool `(B, K)`, at least one per row.

    Returns:
        Shape `(B,)`.
    """
    return scores.logsumexp(dim=1) - scores.masked_fill(~right, -math.inf).logsumexp(dim=1)


def margin(scores: Tensor, right: Tensor) -> Tensor:
    """The best right score minus the best wrong one, `(B,)`; negative if a wrong candidate is first."""
    best = scores.masked_fill(~right, -math.inf).amax(dim=1)
    return best - scores.masked_fill(right, -math.inf).amax(dim=1)


def logits_ratio(scores: Tensor, right: Tensor) -> Tensor:
    """DLR, the difference of logits ratio (equation 6 of Croce & Hein), which does not depend on their scale.

    The right candidates count as one, with the best of their scores.

    Args:
        scores: Logits `(B, K)`.
        right: bool `(B, K)`, at least one right and two wrong candidates per row.

    Returns:
        Shape `(B,)`; above 0 if a wrong candidate is first.
    """
    best = scores.masked_fill(~right, -math.inf).amax(dim=1, keepdim=True)
    wrong = scores.masked_fill(right, -math.inf).topk(2, dim=1).values
    first_to_third = torch.cat([best, wrong], dim=1).sort(dim=1, descending=True).values
    spread = (first_to_third[:, 0] - first_to_third[:, 2]).clamp(min=1e-12)
    return -(best[:, 0] - wrong[:, 0]) / spread


class Attack(NamedTuple):
    """An attack by its steps and what they raise.

    Attributes:
        label: In tables.
        objective: What every step raises.
        adaptive: Whether steps are those of APGD; else those of PGD.
    """

    label: str
    objective: Objective
    adaptive: bool


ATTACKS = {
    "pgd": Attack("PGD", cross_entropy, adaptive=False),
    "apgd_ce": Attack("APGD-CE", cross_entropy, adaptive=True),
    "apgd_dlr": Attack("APGD-DLR", logits_ratio, adaptive=True),
}


def attacked(
    attack: Attack, images: Tensor, scores: Scores, right: Tensor, *, strength: int, steps: int, seed: int = 0
) -> Tensor:
    """Images that are changed by at most `strength` per value.

    The random start of an image depends on the image and the seed alone, not on its place or its batch.

    Args:
        attack: One of `ATTACKS`.
        images: uint8 `(B, 3, S, S)`.
        scores: The model.
        right: The right candidates of each image, bool `(B, K)`.
        strength: ε in units of 1 / 255, at least 1.
        steps: At least 1, a forward and a backward pass each.
        seed: Of the start.

    Returns:
        uint8 `(B, 3, S, S)`: the result is rounded to values that an image file can hold, still within `strength`.

    Raises:
        UserError: if the scores have no gradient with respect to the pixels.
    """
    clean, limit = images.float() / 255, strength / 255
    start = torch.stack([_noise(image, seed) for image in images]) if len(images) else torch.zeros_like(clean)
    search = _apgd if attack.adaptive else _pgd
    objective = _Measured(scores, attack.objective, right)
    found = search(objective, clean, start.to(images.device) * limit, limit=limit, steps=steps)
    return (found * 255).round().to(torch.uint8)  # still within the limit, which is a whole number of values


def _noise(image: Tensor, seed: int) -> Tensor:
    """Uniform numbers in [−1, 1], of the image's shape, on the CPU."""
    content = zlib.crc32(image.cpu().contiguous().numpy().tobytes(), seed)
    return 2 * torch.rand(image.shape, generator=torch.Generator().manual_seed(content)) - 1


class _Measured(NamedTuple):
    """The objective as a function of images."""

    scores: Scores
    objective: Objective
    right: Tensor

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Values `(B,)`, and the sign of their gradient, `(B, 3, S, S)`."""
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            values = self.objective(self.scores(images), self.right)
            gradient = None
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), images, allow_unused=True)
        if gradient is None:
            raise UserError(
                "this model gives no gradient with respect to the pixels, which an attack follows: name a model that "
                "PyTorch computes from the image on"
            )
        return values.detach(), gradient.sign()


def _within(images: Tensor, clean: Tensor, limit: float) -> Tensor:
    """The nearest images within the limit and in [0, 1]."""
    return images.clamp(clean - limit, clean + limit).clamp(0, 1)


def _pgd(measured: _Measured, clean: Tensor, start: Tensor, *, limit: float, steps: int) -> Tensor:
    """Steps of one size along the sign of the gradient; the last image."""
    step = PGD_REACH * limit / steps
    images = _within(clean + start, clean, limit)
    for _ in range(steps):
        images = _within(images + step * measured(images)[1], clean, limit)
    return images


def _apgd(measured: _Measured, clean: Tensor, start: Tensor, *, limit: float, steps: int) -> Tensor:
    """Algorithm 1 of Croce & Hein: steps with momentum, halved where they no longer help; the best image met."""
    size = torch.full((len(clean), 1, 1, 1), 2 * limit, device=clean.device)
    images = before = _within(clean + start, clean, limit)
    value, direction = measured(images)
    best, best_value, best_direction = images, value, direction
    at_checkpoint, size_then, rises, last = best_value, size, torch.zeros_like(value), 0
    halts = checkpoints(steps)
    for step in range(1, steps + 1):
        ahead = _within(images + size * direction, clean, limit)
        if step > 1:
            ahead = _within(images + MOMENTUM * (ahead - images) + (1 - MOMENTUM) * (images - before), clean, limit)
        before, images = images, ahead
        previous, (value, direction) = value, measured(images)
        rises = rises + (value > previous)
        better = value > best_value
        best, best_direction = (
            torch.where(_wide(better), new, old) for new, old in ((images, best), (direction, best_direction))
        )
        best_value = torch.where(better, value, best_value)
        if step in halts:
            few = rises < ENOUGH * (step - last)
            stuck = (size == size_then).flatten() & (best_value <= at_checkpoint)
            at_checkpoint, size_then, rises, last = best_value, size, torch.zeros_like(rises), step
            halved = _wide(few | stuck)
            size = torch.where(halved, size / 2, size)
            images, direction = torch.where(halved, best, images), torch.where(halved, best_direction, direction)
            value = torch.where(halved.flatten(), best_value, value)
    return best


def checkpoints(steps: int) -> set[int]:
    """The steps after which APGD may halve its step size (section 3.2): 22 % of all, then ever closer."""
    shares, found = [0.0, 0.22], set()
    while shares[-1] < 1:
        found.add(math.ceil(shares[-1] * steps))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return found


def _wide(chosen: Tensor) -> Tensor:
    """`(B,)` → `(B, 1, 1, 1)`."""
    return chosen.view(-1, 1, 1, 1)
