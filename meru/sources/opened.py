"""What a source of a model gives, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from meru.assemble import Pretrained
from meru.encoders.weights import first_cause
from meru.errors import UserError

WITHOUT_NETWORK = (
    "behind a mirror set HF_ENDPOINT=<address>, for another cache HF_HOME=<folder>, or download the weights elsewhere "
    "and name their file or folder"
)


@dataclass(frozen=True)
class Opened:
    """A source of a model.

    Attributes:
        config: A complete training configuration, which may be changed. For published weights it is composed from
            `configs/train.yaml`; its section `data` then says nothing about the weights.
        name: Its name in titles and messages.
        folder: The run folder, or None.
        has_data: Whether `config.data` names the data that the model was trained on.
        load: Builds the model, in evaluation mode.
    """

    config: DictConfig
    name: str
    folder: Path | None
    has_data: bool
    load: Callable[[], Pretrained]

    @cached_property
    def pretrained(self) -> Pretrained:
        """The model with its tokenizer and transforms, loaded at the first use.

        Raises:
            UserError: if the weights cannot be read or do not fit.
        """
        return self.load()

    def output(self, name: str) -> Path | None:
        """Where results called `name` belong if the user names no place: in the run folder; None without one."""
        return self.folder / name if self.folder else None

    def require_folder(self, *, what: str) -> Path:
        """The run folder.

        Raises:
            UserError: if there is none; `what` says what needs it.
        """
        if self.folder is None:
            raise UserError(f"run={self.name} is no run folder: {what}")
        return self.folder


@contextmanager
def obtaining_weights(name: str) -> Iterator[None]:
    """Turn errors of building a tower with its library's weights into one line about the source of that name."""
    try:
        yield
    except InstantiationException as error:  # wraps the error of the tower's function
        cause = error.__cause__
        if not isinstance(cause, UserError):
            raise
        if cause.__cause__ is None:
            raise UserError(f"run={name}: {cause}") from None
        # The tower's own message advises keys of a training.
        raise UserError(
            f"run={name}: its weights are not in the local cache, and the hub cannot be reached "
            f"({first_cause(cause.__cause__)}); {WITHOUT_NETWORK}"
        ) from None
