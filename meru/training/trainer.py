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
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from meru import distributed, sharing, stopping
from meru.errors import UserError
from meru.run_layout import BEST, CHECKPOINT, GRADIENTS, METRICS
from meru.training import due
from meru.training.arriving import arriving
from meru.training.averaging import MovingAverage
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
from meru.training.precision import allow_tf32, fastest_attention, wants_bf16
from meru.training.scalars import ScalarMovement
from meru.training.settings import TrainerSettings
from meru.training.sharded import Sharded, clip, local
from meru.training.stage_end import end_stage
from meru.training.state import restore, state_of
from meru.training.step_log import StepLog
from meru.training.watch import StepWatch, Verdict, gradient_norms
from meru.training.wrapping import as_before, compiler_errors, wrapped

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
            by name, and the figures of stages; saved in checkpoints, and restored before `batches` is called.
        on_resumed: Called in the main process after a checkpoint has been restored.
        on_validated: Called in the main process with the validated model and the step, after every
            `settings.figures_every` validations, but not at the end of the run.
        stages: Stages, each of `settings.epochs` epochs with learning rate and `epoch` as in a run of its own.
        at_stage_end: Computes figures of the model at the end of a stage, whose number from 0 it takes, as `evaluate`.
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
    epoch_state: dict[str, Tensor | float] = field(default_factory=dict)
    on_resumed: Callable[[], None] = lambda: None
    on_validated: Callable[[nn.Module, int], None] = lambda model, step: None
    stages: int = 1
    at_stage_end: Callable[[nn.Module, int], dict[str, float]] = lambda model, stage: {}

    step: int = field(default=0, init=False)
    best: dict[str, float] = field(default_factory=lambda: {"figure": -math.inf, "step": -1}, init=False)
    stop_requested: bool = field(default=False, init=False)
    diagnosis: MetricsFile | None = field(default=None, init=False)
    sharded: Sharded | None = field(default=None, init=False)
    verdict: Verdict = field(default=Verdict(), init=False)

    def __post_init__(self):
        self.steps_per_epoch = max(1, self.batches_per_epoch // self.settings.accumulate)
        self.total_steps = self.stages * self.settings.epochs * self.steps_per_epoch
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        # The first group may have a multiplier, so its rate need not be the configured `learning_rate`.
        self.highest_rate = self.optimizer.param_groups[0].get("base_learning_rate", self.highest_rates[0])
        self.movement = ScalarMovement(self.model, self.optimizer)
        self.watch = StepWatch(optimizer=self.optimizer, device=self.device)
        self.average = None
        if self.settings.ema_decay:
            self.average = MovingAverage(self.model, self.settings.ema_decay)
        self.bf16 = wants_bf16(self.settings.precision, self.device)

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
        if self.settings.parallel == "fsdp" and distributed.world_size() > 1:
            self.sharded = Sharded(self.model, self.optimizer, self.device)
            log.info("the blocks of the towers are divided among %d processes", distributed.world_size())
            self.watch.late = False  # the optimizer of divided parameters cannot skip an update by itself
        forward = wrapped(self.model, self.settings, self.device)
        self.model.train()
        hidden = None if distributed.is_main() else True  # None: where there is no terminal
        progress = tqdm(total=self.total_steps, initial=self.step, unit="step", disable=hidden)
        shown = {"logger": self.logger, "progress": progress}
        written = StepLog(model=self.model, movement=self.movement, metrics=metrics, **shown)
        clock, images, stop = time.perf_counter(), 0, False
        with self._signals(), compiler_errors():
            while self.step < self.total_steps:
                figures, size = self._step(forward, stream)
                images += size
                progress.update()
                logging_due, validating = due.logging(self, self.step), due.validation(self)
                stop = self._stop_due(now=logging_due or validating or due.checkpoint(self))
                if logging_due:
                    progressed = {"step": self.step, "epoch": self.step / self.steps_per_epoch}
                    written.write(figures, **progressed, images=images, seconds=time.perf_counter() - clock)
                    clock, images = time.perf_counter(), 0
                if validating:
                    with torch.compiler.set_stance("force_eager"):  # other shapes would be compiled again
                        self._validate(metrics, progress, figures)
                    clock, images = time.perf_counter(), 0
                    stop = stop or self._asked_alone()
                if validating or stop or due.checkpoint(self):
                    self._save()
                if stop:
                    break
        progress.close()
        as_before(self.model)
        if self.sharded:
            self.sharded.gather()
        finished = self.step == self.total_steps and not stop
        if finished and distributed.is_main():
            self.movement.report()
        return finished

    def _step(self, forward: nn.Module, stream: Iterator[Batch]) -> tuple[dict[str, Tensor], int]:
        """Take one optimizer step over `accumulate` batches.

        Nothing here reads a number from the device, so that a GPU always has work ahead.
        """
        totals: dict[str, Tensor] = {}
        size, accumulate = 0, self.settings.accumulate
        measured = TermGradients(self.model) if due.diagnosis(self) else None
        self.model.reports_figures = due.logging(self, self.step + 1) or self.settings.compile is True
        if self.settings.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        for micro in range(accumulate):
            epoch = torch.full((), self.step % self.stage_steps / self.steps_per_epoch, device=self.device)
            batch = {**next(stream), "epoch": epoch}
            passes = fastest_attention(self.device, bf16=self.bf16)
            with self._synchronised(forward, micro == accumulate - 1), passes:
                with self._autocast():
                    output = forward(batch)
                if measured:
                    measured.add(output, share=1 / accumulate)
                (output.loss / accumulate if accumulate > 1 else output.loss).backward()
            size += len(batch["image"])
            figures = {"loss": output.loss.detach(), **output.logs}
            if "skipped" in batch:
                totals["skipped_images"] = totals.get("skipped_images", 0) + batch["skipped"].float()
            for name, value in figures.items():
                if value.dim() or accumulate == 1:
                    totals[name] = value  # a histogram of the last batch is enough
                else:
                    totals[name] = totals.get(name, 0.0) + value / accumulate
        norms = gradient_norms(self.model)
        totals["gradient_norm"] = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        limit = self.settings.clip_gradient_norm or math.inf
        clip(self.model, limit, totals["gradient_norm"])
        self.watch.note(self.step, stop=self.stop_requested, figures=totals, gradients=norms)
        if not self.watch.late or measured:  # before the weights change, or figures are written
            self.verdict = self._checked(now=True)
        if measured:
            self._log_gradients(measured)
        totals["learning_rate"] = torch.tensor(self.highest_rate * self._update())
        return totals, size

    def _update(self) -> float:
        """Change the weights by the gradients; returns the factor on the learning rate."""
        per_epoch = self.settings.rate_changes == "epoch"
        step = self.step % self.stage_steps
        factor = warmup_cosine(
            step // self.steps_per_epoch * self.steps_per_epoch if per_epoch else step,
            total_steps=self.stage_steps,
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
        return factor

    def _stop_due(self, *, now: bool) -> bool:
        """Whether the run was asked to stop; raises the error of a step that was not finite."""
        if self.watch.late:
            self.verdict = self._checked(now=now)
            if self.verdict.stop or self._asked_alone():
                self._checked(now=True)  # the last step, before it is saved
        return self.verdict.stop or self._asked_alone()

    def _asked_alone(self) -> bool:
        return self.stop_requested and distributed.world_size() == 1

    def _checked(self, *, now: bool) -> Verdict:
        verdict = self.watch.verdict(now=now)
        if verdict.failed is not None:
            causes = [*(f"the weight {name}" for name in self.spoilt_weights()), *verdict.causes]
            self._stop_unfinished(causes[0] if causes else "the loss of another process", step=verdict.failed)
        return verdict

    def spoilt_weights(self) -> list[str]:
        """Names of parameters and buffers with a value that is not finite."""
        names = [name for name, value in self.model.state_dict().items() if not local(value).isfinite().all()]
        return sorted(set().union(*distributed.collect(names))) if self.sharded else names

    def _stop_unfinished(self, what: str, *, step: int) -> NoReturn:
        last = self.folder / CHECKPOINT
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        raise UserError(
            f"step {step}: {what} is not finite; {kept}. Try a lower learning rate or trainer.precision=fp32",
            exit_code=1,
        )

    # ------------------------------------------------------------------------------------------- figures
    def _log_gradients(self, measured: TermGradients) -> None:
        figures = measured.figures()
        if self.diagnosis is not None:
            self.diagnosis.write({"step": self.step + 1, "epoch": (self.step + 1) / self.steps_per_epoch, **figures})

    def _validate(self, metrics: MetricsFile | None, progress: tqdm, training: dict[str, Tensor]) -> None:
        """Validate in all processes, and save the weights in the main one if they are the best so far.

        Uses float32, as for the test split and in scripts/evaluate.py. Without a split, shows the last step's loss.
        """
        epoch = f"epoch {self.step // self.steps_per_epoch}/{self.stages * self.settings.epochs}"
        if due.stage_end(self):
            end_stage(self, metrics)
        if self.evaluate is None:
            if metrics is not None:
                progress.write(f"{epoch}  loss {training['loss'].item():.3f}")
            return
        if self.sharded:
            self.sharded.gather()
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
            if due.plots(self):
                self.on_validated(self.evaluated, self.step)
        distributed.wait_for_main()

    @property
    def evaluated(self) -> nn.Module:
        """The model to validate and export: the moving average if there is one."""
        replaced = self.sharded.whole if self.sharded else self.average and self.average.module
        return replaced or self.model

    # ------------------------------------------------------------------------------------------- state
    def _save(self) -> None:
        if spoilt := self.spoilt_weights():  # the same in all processes
            self._stop_unfinished(f"the weight {spoilt[0]}", step=self.step)
        state = {**state_of(self), "random_states": random_states()}
        if distributed.is_main():
            save_checkpoint(self.folder / CHECKPOINT, state)
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
    @property
    def stage_steps(self) -> int:
        """The steps of a stage, which has schedules of its own."""
        return self.total_steps // self.stages

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        return arriving(batches, self.device, few_shapes=self.settings.compile == "graphs")

    def _autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _synchronised(self, forward: nn.Module, last: bool):
        """Average the gradients of accumulated batches over the processes only once, with the last batch."""
        return contextlib.nullcontext() if last or distributed.world_size() == 1 else forward.no_sync()

    @contextlib.contextmanager
    def _signals(self):
        """Save a checkpoint and end cleanly on SIGTERM and Ctrl-C; see `meru.stopping`."""
        request = partial(setattr, self, "stop_requested", True)
        with stopping.at_next_step(request, run=self.folder):
            yield
