"""The declaration of one key: kind, unit, explanation, and what may happen to it."""

from __future__ import annotations

from dataclasses import dataclass

from meru.configuration.kinds import Kind, Number


@dataclass(frozen=True)
class Key:
    """The declaration of a key.

    Attributes:
        kind: The allowed values other than null.
        unit: The unit of a number.
        meaning: Explanation, if no comment in configs/ gives one.
        null: Whether null is allowed.
        fixed: Whether a resumed run refuses another value.
        loss_weight: Whether the key is the weight of a loss term, which 0 switches off.
    """

    kind: Kind
    unit: str = ""
    meaning: str = ""
    null: bool = False
    fixed: bool = False
    loss_weight: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values, as text for the user."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.kind.allowed}{unit}{', or null' if self.null else ''}"

    def takes(self, value: object) -> bool:
        """Whether a value from YAML is allowed."""
        return self.null if value is None else self.kind.takes(value)


def fixed(kind: Kind, unit: str = "", meaning: str = "", *, null: bool = False) -> Key:
    """A key that a resumed run refuses to change."""
    return Key(kind, unit, meaning, null=null, fixed=True)


def weight(meaning: str) -> Key:
    """The weight of a loss term."""
    return Key(Number(0, 1e6), meaning=meaning, loss_weight=True)
