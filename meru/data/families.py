"""Groups classes into families by their names."""

from __future__ import annotations

from collections.abc import Sequence

from meru.errors import UserError

FAMILY_RULES = ("last_word", "file")


def families_by_name(class_names: Sequence[str], rule: str | None) -> tuple[str, ...] | None:
    """The family of each class by the rule `last_word`; None for other rules, whose families are not in the names.

    "Laysan Albatross" is an "Albatross"; a name without a word is a family of its own.

    Args:
        class_names: In plain words.
        rule: `data.families`: one of `FAMILY_RULES`, or None for no families.

    Raises:
        UserError: for another rule.
    """
    if rule not in (*FAMILY_RULES, None):
        raise UserError(f"data.families={rule}: choose one of {', '.join(FAMILY_RULES)}, or null for none")
    return tuple(_last_word(name) for name in class_names) if rule == "last_word" else None


def _last_word(name: str) -> str:
    words = name.replace("_", " ").split()
    return words[-1] if words else name
