"""Watches that every step is finite and whether a signal asks to stop, without making a GPU wait for the answers.

Reading a number from a GPU means waiting until all that was started before has ended, and meanwhile nothing new is
started. Therefore the answers about a step are read after the next step has been started. A step that is not finite
still never changes a weight: the optimizer looks at the flag on the GPU and from then on skips its updates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from meru import distributed
from meru.training.sharded import local, norms_over_processes


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of the steps so far.

    Attributes:
        stop: Whether a process was asked to stop.
        failed: Number of the first step that was not finite; None if all were.
        causes: Names of what was not finite in that step, in this process; empty if another process failed.
    """

    stop: bool = False
    failed: int | None = None
    causes: Sequence[str] = ()


@dataclass(kw_only=True)
class StepWatch:
    """Collects one flag per step for "not finite" and one for "asked to stop", over all processes.

    Attributes:
        optimizer: On a GPU, one with `fused=True` skips updates by itself; others need the answer before their update.
        device: Device of the model.
        late: Whether answers are read a step late; by default wherever the optimizer can skip updates on a GPU.
    """

    optimizer: torch.optim.Optimizer
    device: torch.device
    late: bool | None = None

    _stop: bool = field(default=False, init=False)
    _pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = field(default_factory=deque, init=False)
    _failed: Tensor | None = field(default=None, init=False)
    _finite: Tensor | None = field(default=None, init=False)
    _names: list[str] = field(default_factory=list, init=False)

    def __post_init__(self):
        if self.late is None:
            self.late = self.device.type == "cuda" and skips_updates(self.optimizer)

    def note(
        self, step: int, *, stop: bool, figures: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
    ) -> None:
        """Note a step between its backward pass and its update; every process calls this.

        Args:
            step: Its number.
            stop: Whether this process was asked to stop.
            figures: `loss`, `gradient_norm` and the terms `loss/…`, scalars; others are ignored.
            gradients: Norm of the gradient by the name of its parameter, scalars.
        """
        total = figures["loss"] + figures["gradient_norm"]
        flags = torch.stack([(~total.isfinite()).float(), torch.full((), float(stop), device=total.device)])
        if distributed.world_size() > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        terms = {name: value for name, value in figures.items() if name.startswith("loss/") and not value.dim()}
        self._names = [*terms, *(f"the gradient of {name}" for name in gradients)]
        finite = torch.stack([each.float() for each in (*terms.values(), *gradients.values())]).isfinite()
        if self._failed is None:
            self._failed, self._finite = torch.zeros_like(flags[0]), finite
        else:  # the causes of the first failure are kept
            self._finite = torch.where(self._failed > 0, self._finite, finite)
        self._failed = torch.maximum(self._failed, flags[0])
        event = None
        if self.late:
            self.optimizer.found_inf = self._failed  # the name that torch's fused optimizers know
            if self.device.type == "cuda":
                flags = torch.empty_like(flags, device="cpu", pin_memory=True).copy_(flags, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
        self._pending.append((step, flags, event))

    def verdict(self, *, now: bool) -> Verdict:
        """The verdict about all steps; unless `now`, about all but the last one where answers are late."""
        keep = 0 if now or not self.late else 1
        while len(self._pending) > keep:
            step, flags, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            failed, asked = flags.tolist()
            self._stop |= asked > 0
            if failed:
                return Verdict(stop=self._stop, failed=step, causes=self._causes())
        return Verdict(stop=self._stop)

    def _causes(self) -> list[str]:
        assert self._finite is not None
        return [name for name, fine in zip(self._names, self._finite.tolist(), strict=True) if not fine]


def skips_updates(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimizer reads `found_inf` on the device and then leaves weights and state as they are."""
    return getattr(optimizer, "_step_supports_amp_scaling", False) and all(
        group.get("fused") for group in optimizer.param_groups
    )


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """Norm of the gradient of every parameter that has one, scalars by name."""
    with_gradient = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    gradients = list(with_gradient.values())
    norms = list(torch._foreach_norm([local(each) for each in gradients]))
    return dict(zip(with_gradient, norms_over_processes(norms, gradients), strict=True))
