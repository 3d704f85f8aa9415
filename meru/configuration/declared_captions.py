"""Declares the keys of `data` for the captions to train on; see `meru.configuration.declarations`."""

from __future__ import annotations

from meru.configuration.key import Key, fixed
from meru.configuration.kinds import Choice, Flag
from meru.configuration.ranges import FILE, SHARE

CAPTIONS: dict[str, Key] = {
    "captions_from": fixed(FILE, null=True),
    "captions_mode": fixed(Choice(("add", "replace", "mix"))),
    "generated_share": fixed(SHARE, "share"),
    "evaluate_generated": fixed(Flag()),
    "caption_noise": fixed(SHARE, "share"),
    "caption_noise_kind": fixed(Choice(("symmetric", "nearest"))),
}
