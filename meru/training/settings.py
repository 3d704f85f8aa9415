"""The `trainer` section of the configuration, and settings that apply to the whole process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from meru.errors import UserError, require


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The `trainer` section of the configuration.

    Attributes:
        epochs: Passes over the training images.
        accumulate: Batches whose gradients are accumulated for one step. Negatives come from within each batch.
        warmup_epochs: Linear warm-up; fractions are fine.
        final_learning_rate: Learning rate at the end, as a share of the highest.
        rate_changes: When the learning rate changes: every `step`, or every `epoch`; then all steps of an epoch have
            the rate of its first, as with torch's CosineAnnealingLR stepped once per epoch.
        clip_gradient_norm: Upper bound on the gradient's norm; null for none.
        precision: `bf16` (autocast; geometry stays float32), `fp32`, or `auto`: bf16 on a GPU that supports it.
        tf32: Whether the towers' float32 matrix products and convolutions may use TF32 on a GPU.
        ema_decay: Decay of a moving average of the weights, which is evaluated and exported in their place; 0: none.
        compile: What torch.compile compiles: `towers`, block by block; `graphs`, the same recorded as CUDA graphs on a
            GPU; True, the whole model.
        micro_batch_size: Samples that the towers compute at a time, with the gradients of the whole batch: see
            `meru.layers.pieces`; None: all.
        parallel: What several processes hold: `ddp`, the whole model each; `fsdp`, parts of its blocks, see
            `meru.training.sharded`.
        evaluate_every: Epochs between validations; the last epoch is always validated.
        monitor: The validation figure that selects the weights; higher is better.
        log_every: Steps between logged lines.
        checkpoint_every: Steps between checkpoints besides those at validations; 0: none.
        figures_every: Validations between the plots that `Trainer.on_validated` draws; 0: none.
        diagnose_every: Steps between measurements of each term's gradient, from the first step on; 0: none. See
            `meru.training.gradients`.
    """

    epochs: int
    accumulate: int = 1
    warmup_epochs: float = 1.0
    final_learning_rate: float = 0.0
    rate_changes: str = "step"
    clip_gradient_norm: float | None = 1.0
    precision: str = "auto"
    tf32: bool = False
    ema_decay: float = 0.0
    compile: bool | str = False
    micro_batch_size: int | None = None
    parallel: str = "ddp"
    evaluate_every: int = 1
    monitor: str = "text_to_image/class/recall@1"
    log_every: int = 10
    checkpoint_every: int = 0
    figures_every: int = 0
    diagnose_every: int = 0

    @classmethod
    def of(cls, section: Mapping) -> TrainerSettings:
        """Read the settings from the configuration.

        Raises:
            UserError: for an unknown key, or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for key in section:
            if key not in known:
                raise UserError(f"trainer.{key}: no such key; choose one of {', '.join(known)}")
        return cls(**section)

    def __post_init__(self):
        if self.precision not in ("auto", "bf16", "fp32"):
            raise UserError(f"trainer.precision={self.precision}: choose auto, bf16 or fp32")
        require(self.rate_changes, ("step", "epoch"), key="trainer.rate_changes")
        require(self.parallel, ("ddp", "fsdp"), key="trainer.parallel")
        for name in ("epochs", "accumulate", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"trainer.{name}={getattr(self, name)}: must be at least 1")
        for name in ("figures_every", "diagnose_every"):
            if getattr(self, name) < 0:
                raise UserError(f"trainer.{name}={getattr(self, name)}: must be at least 0, which is off")
        if self.compile not in (False, "towers", "graphs", True):
            raise UserError(f"trainer.compile={self.compile}: choose false, towers, graphs or true")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise UserError(f"trainer.micro_batch_size={self.micro_batch_size}: must be at least 1, or null")
        if self.diagnose_every and self.compile is True:
            raise UserError(
                f"trainer.diagnose_every={self.diagnose_every}: a compiled model does not give the gradients of single "
                "terms; set trainer.compile=towers or false"
            )
