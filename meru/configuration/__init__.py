"""The keys of the configuration, their allowed values, and their validation: `check`."""

from meru.configuration.check import absent_key, absolute_paths, check, declaration, fixed_on_resume, unknown_key
from meru.configuration.facts import notes, validation_figures

__all__ = [
    "absent_key",
    "absolute_paths",
    "check",
    "declaration",
    "fixed_on_resume",
    "notes",
    "unknown_key",
    "validation_figures",
]
