"""Which settings of configs/evaluate.yaml an evaluation reads; one that it would leave alone is refused."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import OmegaConf

from meru.errors import UserError
from meru.files import CONFIGS

QUERIES = ("captions_per_image",)
PROMPTS = ("templates",)
ATTACK = ("attack_strengths", "attack_steps", "attack_images")

# By suite, beside those that every evaluation reads; None: the usual figures. A suite that is not here may read all.
SETTINGS: dict[str | None, tuple[str, ...]] = {
    None: (*QUERIES, *PROMPTS, "pointing", "prior_adjustment"),
    "geometry": QUERIES,
    "robustness": (*QUERIES, "corruptions", "severities"),
    "pointing": QUERIES,
    "zero_shot": PROMPTS,
    "linear_probe": ("probe_features",),
    "hierarchy": PROMPTS,
    "multilabel": PROMPTS,
    "retrieval": QUERIES,
    "entailment": (),
    "persons": QUERIES,
    "discovery": (),
    "words": (),
    "privacy": QUERIES,
    "attacks": (*QUERIES, *ATTACK),
    "attacks_discovery": ATTACK,
}
EVERY = tuple(dict.fromkeys(key for keys in SETTINGS.values() for key in keys))


def settings_of(suite: str | None) -> tuple[str, ...]:
    """The settings that a suite reads, beside those that every evaluation reads; None: the usual figures."""
    return SETTINGS.get(suite, EVERY)


def check_settings(asked: Mapping[str, object]) -> None:
    """Refuse a setting that this suite, or an evaluation without one, would leave alone without a word.

    Args:
        asked: A configuration of configs/evaluate.yaml.

    Raises:
        UserError: if a setting differs from that file and is not read; the message names what reads it.
    """
    usual = OmegaConf.to_container(OmegaConf.load(CONFIGS / "evaluate.yaml"), resolve=False)
    suite = asked["suite"]
    for key in EVERY:
        if key in settings_of(suite) or asked[key] == usual[key]:
            continue
        readers = [name for name, keys in SETTINGS.items() if name and key in keys]
        advice = ["leave it out"]
        advice += [f"choose suite={' or '.join(readers)}"] if readers else []
        advice += ["leave out suite"] if suite and key in SETTINGS[None] else []
        what = f"suite={suite}" if suite else "an evaluation without suite="
        raise UserError(f"{key}={asked[key]}: {what} does not read it; {', or '.join(advice)}")
