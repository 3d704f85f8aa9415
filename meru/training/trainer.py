"""The training loop, read from top to bottom: evaluate → save → forward and backward → step → log.

It is independent of the model: `forward(batch)` must return an object with `loss` and `logs`, and `constrain_()` must
clamp learnable scalars to their bounds.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from meru import distributed, sharing, stopping
from meru.errors import UserError
from meru.layers.batch_norm import share_batch_norms
from meru.run_layout import BEST, CHECKPOINT, GRADIENTS, METRICS
from meru.training.checkpoint import (
    MetricsFile,
    random_states,
    restore_random_states,
    save_checkpoint,
    save_weights,
    shared_checkpoint,
)
from meru.training.gradients import TermGradients
from meru.training.optimizer import warmup_cosine
from meru.training.scalars import ScalarMovement
from meru.training.settings import TrainerSettings, allow_tf32
from meru.training.state import restore, state_of

log = logging.getLogger("meru")

Batch = Mapping[str, Tensor]


@dataclass(kw_only=True)
class Trainer:
    """Trains a model and saves its best weights in the run folder.

    Attributes:
        model: The model, already on its device.
        optimizer: Optimizer of the model's parameters.
        batches: Takes the number of a first batch; gives the batches of this process to the end of the run.
        batches_per_epoch: Number of batches per epoch.
        evaluate: Computes the figures of a model on the validation split; None without a split. All processes call it
            in `sharing.together`, and the main one needs the figures.
        logger: Has `log(figures, step=…)`.
        folder: The run folder.
        device: Device of the model.
        settings: See `TrainerSettings`.
        epoch_state: State that `batches` computes at the start of an epoch and uses until its end, tensors and numbers
            by name; saved in checkpoints, and restored before `batches` is called.
        on_resumed: Called in the main process after a checkpoint has been restored.
        on_validated: Called in the main process with the validated model and the step, after every
            `settings.figures_every` validations, but not at the end of the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Callable[[int], Iterable[Batch]]
    batches_per_epoch: int
    evaluate: Callable[[nn.Module], dict[str, float]] | None
    logger: object
    folder: Path
    device: torch.device
    settings: TrainerSettings
    epoch_state: dict[str, Tensor | int] = field(default_factory=dict)
    on_resumed: Callable[[], None] = lambda: None
    on_validated: Callable[[nn.Module, int], None] = lambda model, step: None

    step: int = field(default=0, init=False)
    best: dict[str, float] = field(default_factory=lambda: {"figure": -math.inf, "step": -1}, init=False)
    stop_requested: bool = field(default=False, init=False)
    warned: set[str] = field(default_factory=set, init=False)
    diagnosis: MetricsFile | None = field(default=None, init=False)

    def __post_init__(self):
        self.steps_per_epoch = max(1, self.batches_per_epoch // self.settings.accumulate)
        self.total_steps = self.settings.epochs * self.steps_per_epoch
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        # The first group may have a multiplier, so its rate need not be the configured `learning_rate`.
        self.highest_rate = self.optimizer.param_groups[0].get("base_learning_rate", self.highest_rates[0])
        self.movement = ScalarMovement(self.model, self.optimizer)
        self.average = None
        if self.settings.ema_decay:
            average = get_ema_multi_avg_fn(self.settings.ema_decay)
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=False)
        bf16_gpu = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        self.bf16 = self.settings.precision == "bf16" or (self.settings.precision == "auto" and bf16_gpu)

    # ------------------------------------------------------------------------------------------- the loop
    def run(self) -> bool:
        """Train to the end. Returns False if a signal stopped it; the run folder then has a checkpoint."""
        allow_tf32(self.settings.tf32, device=self.device)
        states = self._resume()
        metrics = MetricsFile(self.folder / METRICS, step=self.step) if distributed.is_main() else None
        if self.settings.diagnose_every and distributed.is_main():
            self.diagnosis = MetricsFile(self.folder / GRADIENTS, step=self.step)
        stream = self._on_device(self.batches(self.step * self.settings.accumulate))
        first = next(stream, None)  # starts the workers, which draws random numbers
        stream = itertools.chain([first], stream)
        if states:
            restore_random_states(states, alike=distributed.draw_alike(self.model))
        forward = self._wrapped()
        self.model.train()
        progress = tqdm(
            total=self.total_steps, initial=self.step, unit="step", disable=None if distributed.is_main() else True
        )
        clock, images, stop = time.perf_counter(), 0, False
        with self._signals():
            while self.step < self.total_steps:
                figures, size = self._step(forward, stream)
                images += size
                progress.update()
                if self.step % self.settings.log_every == 0 or self.step == self.total_steps:
                    seconds = time.perf_counter() - clock
                    self._log_step(metrics, progress, figures, images=images, seconds=seconds)
                    clock, images = time.perf_counter(), 0
                if validating := self._validation_due():
                    self._validate(metrics, progress, figures)
                    clock, images = time.perf_counter(), 0
                stop = self._agreed(self.stop_requested)
                if validating or stop or self._checkpoint_due():
                    self._save()
                if stop:
                    break
        progress.close()
        finished = self.step == self.total_steps and not stop
        if finished and distributed.is_main():
            self.movement.report()
        return finished

    def _step(self, forward: nn.Module, stream: Iterator[Batch]) -> tuple[dict[str, Tensor], int]:
        """Take one optimizer step over `accumulate` batches."""
        totals: dict[str, Tensor] = {}
        size = 0
        measured = TermGradients(self.model) if self._diagnosis_due() else None
        for micro in range(self.settings.accumulate):
            batch = {**next(stream), "epoch": torch.tensor(self.step / self.steps_per_epoch, device=self.device)}
            last = micro == self.settings.accumulate - 1
            with self._synchronised(forward, last):
                with self._autocast():
                    output = forward(batch)
                if measured:
                    measured.add(output, share=1 / self.settings.accumulate)
                (output.loss / self.settings.accumulate).backward()
            size += len(batch["image"])
            if "skipped" in batch:
                totals["skipped_images"] = totals.get("skipped_images", 0) + batch["skipped"].float()
            for name, value in {"loss": output.loss.detach(), **output.logs}.items():
                if value.dim():
                    totals[name] = value  # a histogram of the last batch is enough
                else:
                    totals[name] = totals.get(name, 0.0) + value / self.settings.accumulate
        limit = self.settings.clip_gradient_norm or math.inf
        totals["gradient_norm"] = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self._check_finite(totals)
        if measured:
            self._log_gradients(measured)
        per_epoch = self.settings.rate_changes == "epoch"
        factor = warmup_cosine(
            self.step // self.steps_per_epoch * self.steps_per_epoch if per_epoch else self.step,
            total_steps=self.total_steps,
            warmup_steps=round(self.settings.warmup_epochs * self.steps_per_epoch),
            final=self.settings.final_learning_rate,
        )
        for group, rate in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        self.movement.count_step()
        self.optimizer.zero_grad()
        self.model.constrain_()
        if self.average:
            self.average.update_parameters(self.model)
        self.step += 1
        totals["learning_rate"] = torch.tensor(self.highest_rate * factor)
        return totals, size

    def _check_finite(self, figures: dict[str, Tensor]) -> None:
        """Stop before a step with values that are not finite, and name the cause."""
        if not self._agreed(not bool(torch.isfinite(figures["loss"] + figures["gradient_norm"]))):
            return
        bad = [f"the weight {name}" for name in self.spoilt_weights()]
        if not bad:
            bad = [name for name, value in figures.items() if name.startswith("loss/") and not value.isfinite()]
        if not bad:
            bad = [
                f"the gradient of {name}"
                for name, parameter in self.model.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ]
        self._stop_unfinished(bad[0] if bad else "the loss of another process")

    def spoilt_weights(self) -> list[str]:
        """Names of parameters and buffers with a value that is not finite."""
        return [name for name, value in self.model.state_dict().items() if not value.isfinite().all()]

    def _stop_unfinished(self, what: str) -> None:
        last = self.folder / CHECKPOINT
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        raise UserError(
            f"step {self.step}: {what} is not finite; {kept}. Try a lower learning rate or trainer.precision=fp32",
            exit_code=1,
        )

    # ------------------------------------------------------------------------------------------- figures
    def _log_step(self, metrics: MetricsFile | None, progress: tqdm, figures: dict, *, images: int, seconds: float):
        scalars = {name: value.item() for name, value in figures.items() if not value.dim()}
        everyone = distributed.collect(scalars)
        if metrics is None:
            return
        scalars = {name: sum(each[name] for each in everyone) / len(everyone) for name in scalars}
        scalars |= self.movement.figures()
        speed = images * distributed.world_size() / max(seconds, 1e-9)
        line = {"step": self.step, "epoch": self.step / self.steps_per_epoch, **scalars}
        metrics.write({**line, "images_per_second": speed})
        self._warn_of_clamps({name for name in scalars if name.startswith("clamped/") and scalars[name] > 0.5})
        histograms = {name: value for name, value in figures.items() if value.dim()}
        self.logger.log({**line, **histograms, "images_per_second": speed}, step=self.step)
        progress.set_postfix({"loss": f"{scalars['loss']:.3f}", "images/s": f"{speed:.0f}"})

    def _log_gradients(self, measured: TermGradients) -> None:
        figures = measured.figures()
        if self.diagnosis is not None:
            self.diagnosis.write({"step": self.step + 1, "epoch": (self.step + 1) / self.steps_per_epoch, **figures})

    def _warn_of_clamps(self, active: set[str]) -> None:
        """Warn once about a clamp that removes the gradient, unless the model or its initial values explain it."""
        expected = {*getattr(self.model, "expected_clamps", ()), *self.movement.unmoved()}
        for name in sorted(active - self.warned - {f"clamped/{name}" for name in expected}):
            log.warning("step %d: %s is active for over half of the values: little or no gradient", self.step, name)
            self.warned.add(name)

    def _validate(self, metrics: MetricsFile | None, progress: tqdm, training: dict[str, Tensor]) -> None:
        """Validate in all processes, and save the weights in the main one if they are the best so far.

        Uses float32, as for the test split and in scripts/evaluate.py. Without a split, shows the last step's loss.
        """
        epoch = f"epoch {self.step // self.steps_per_epoch}/{self.settings.epochs}"
        if self.evaluate is None:
            if metrics is not None:
                progress.write(f"{epoch}  loss {training['loss'].item():.3f}")
            return
        with sharing.together():
            figures = self.evaluate(self.evaluated)
        if metrics is not None:
            if self.settings.monitor not in figures:
                raise UserError(f"trainer.monitor={self.settings.monitor}: choose one of {', '.join(sorted(figures))}")
            figure = figures[self.settings.monitor]
            better = figure > self.best["figure"]
            if better:
                self.best = {"figure": figure, "step": self.step}
                save_weights(self.folder / BEST, self.evaluated.state_dict())
            line = {f"validation/{name}": value for name, value in figures.items()}
            metrics.write({"step": self.step, **line})
            self.logger.log(line, step=self.step)
            progress.write(f"{epoch}  {self.settings.monitor} {100 * figure:.1f} %{'  best so far' if better else ''}")
            if self._figures_due():
                self.on_validated(self.evaluated, self.step)
        distributed.wait_for_main()

    @property
    def evaluated(self) -> nn.Module:
        """The model to validate and export: the moving average if there is one."""
        return self.average.module if self.average else self.model

    # ------------------------------------------------------------------------------------------- state
    def _save(self) -> None:
        if spoilt := self.spoilt_weights():  # the same in all processes
            self._stop_unfinished(f"the weight {spoilt[0]}")
        states = random_states()
        if distributed.is_main():
            save_checkpoint(self.folder / CHECKPOINT, {**state_of(self), "random_states": states})
        distributed.wait_for_main()

    def _resume(self) -> list[dict[str, Tensor]] | None:
        """Restore the checkpoint of the run folder if there is one; returns the random states to restore later."""
        path = self.folder / CHECKPOINT
        state = shared_checkpoint(path)
        if state is None:
            return None
        restore(self, state, source=str(path))
        if distributed.is_main():
            self.on_resumed()
            log.info("resumed at step %d of %d", self.step, self.total_steps)
        return state["random_states"]

    # ------------------------------------------------------------------------------------------- small things
    def _wrapped(self) -> nn.Module:
        several = distributed.world_size() > 1
        if several:
            share_batch_norms(self.model)
        forward = torch.compile(self.model) if self.settings.compile else self.model
        return distributed.parallel(forward, self.device) if several else forward

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _synchronised(self, forward: nn.Module, last: bool):
        """Average the gradients of accumulated batches over the processes only once, with the last batch."""
        return contextlib.nullcontext() if last or distributed.world_size() == 1 else forward.no_sync()

    def _validation_due(self) -> bool:
        every = self.settings.evaluate_every * self.steps_per_epoch
        return self.step % every == 0 or self.step == self.total_steps

    def _checkpoint_due(self) -> bool:
        return self.settings.checkpoint_every > 0 and self.step % self.settings.checkpoint_every == 0

    def _figures_due(self) -> bool:
        every = self.settings.figures_every * self.settings.evaluate_every * self.steps_per_epoch
        return every > 0 and self.step % every == 0 and self.step < self.total_steps

    def _diagnosis_due(self) -> bool:
        return self.settings.diagnose_every > 0 and self.step % self.settings.diagnose_every == 0

    def _agreed(self, flag: bool) -> bool:
        """True in every process if `flag` is True in one."""
        if distributed.world_size() == 1:
            return flag
        box = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(box)
        return bool(box)

    @contextlib.contextmanager
    def _signals(self):
        """Save a checkpoint and end cleanly on SIGTERM and Ctrl-C; see `meru.stopping`."""

        def request():
            self.stop_requested = True

        with stopping.at_next_step(request, run=self.folder):
            yield
