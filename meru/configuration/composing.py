"""Composes a configuration from configs/ and overrides; failures become one-line messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from omegaconf import DictConfig, OmegaConf

from meru.configuration.check import absent_key, is_known, unknown_key
from meru.errors import UserError
from meru.files import CONFIGS, PROJECT

INSTALL = "pip install hydra-submitit-launcher"  # the extra `slurm`


def register_resolvers() -> None:
    """Register `${project:…}`, which makes paths in configs/ independent of the working directory."""
    OmegaConf.register_new_resolver("project", lambda path: str(PROJECT / path), replace=True)


def compose(overrides: Sequence[str], *, command: str = "train") -> tuple[DictConfig, dict[str, str]]:
    """Compose a script's configuration, interpolations unresolved; also return the chosen file of each group.

    Args:
        overrides: Overrides as on the command line, in Hydra's syntax.
        command: `train` or `evaluate`, the primary file.

    Raises:
        UserError: if an override matches no key or file.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose(command, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)  # needed to resolve ${hydra:…}
        choices = OmegaConf.to_container(config.hydra.runtime.choices)
        return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), choices
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(configuration_message(error)) from error


def help_text(overrides: Sequence[str], *, command: str) -> str:
    """What `--help` of a script under Hydra prints; Hydra's own text takes three times as long.

    Raises:
        UserError: if an override matches no key or file.
    """
    config, _ = compose(overrides, command=command)
    groups = {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml") if not path.stem.startswith("_"))
        for folder in sorted(CONFIGS.iterdir())
        if folder.is_dir()
    }
    listed = "\n".join(f"{name}: {', '.join(files)}" for name, files in groups.items())
    return (
        f"scripts/{command}.py is powered by Hydra (https://hydra.cc); --hydra-help shows its own options.\n\n"
        "== Configuration groups ==\n"
        f"Compose your configuration from those groups (group=option)\n\n{listed}\n\n"
        f"== Config ==\nOverride anything in the config (foo.bar=value)\n\n{OmegaConf.to_yaml(config)}"
    )


def configuration_message(error: Exception) -> str:
    """Hydra's message on one line, with a suggestion of the file or key that was probably meant."""
    if launcher := re.search(r"hydra/launcher/(submitit_\w+)", str(error)):
        return f"hydra/launcher={launcher[1].replace('submitit_slurm', 'slurm')} needs submitit: {INSTALL}"
    if overridden := re.match(r"Could not override '([\w.]+)'", str(error)):
        if "." in overridden[1]:
            return str(absent_key(overridden[1]))
    elif removed := re.match(r"Could not delete from config\. '([\w.]+)' does not exist", str(error)):
        if not is_known(removed[1], command="train"):
            return str(unknown_key(removed[1], command="train"))
    elif chosen := re.search(r"Could not find '(\w+)/([^'\n]+)'", str(error)):
        return _absent_file(*chosen.groups())
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and "full_key" not in line and not line.startswith("_")]  # `_…`: bases
    return f"configuration: {' '.join(told)} (all keys: add --cfg job)"


def _absent_file(group: str, name: str) -> str:
    known = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))
    near = get_close_matches(name, known, n=3)
    advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"configuration: Could not find '{group}/{name}': {advice}"
