"""Writes captions by templates for the data of a configuration: `scripts/prepare_data.py describe`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from meru.configuration.overrides import overrides_of, pasteable, readable
from meru.data.caption_templates import RICHNESS, template_captions
from meru.data.parts import PartWords
from meru.errors import UserError
from meru.files import make_folder_of, write_text
from meru.runs.data_check import checked_configuration, of_command_line
from meru.tasks.data import load_data


def write_template_captions(words: Sequence[str], folder: Path) -> None:
    """Write a JSON file for `data.captions_from` for each richness, and print what they are.

    Args:
        words: Overrides as for `scripts/train.py`, with `data=` or `experiment=`.
        folder: Where the files appear; those of the same names are replaced.

    Raises:
        UserError: with exit code 2 for wrong overrides, and with 1 if the data are not there or have no classes.
    """
    words = readable([override for word in words for override in overrides_of(word)], command="train")
    config, choices, typed = checked_configuration(words)
    try:
        data = load_data(config)
        found = template_captions(data, PartWords.of(config.data))
    except UserError as error:
        raise UserError(str(error), exit_code=2 if of_command_line(error, config, typed) else 1) from error
    for richness, captions in found.items():
        path = folder / f"{richness}.json"
        make_folder_of(path)
        write_text(path, json.dumps(captions, ensure_ascii=False, indent=0) + "\n")
        total = sum(map(len, captions.values()))
        print(f"{path}: {RICHNESS[richness]}; {total} captions of {len(captions)} images")
        print(f"  for instance: {max(next(iter(captions.values())), key=len)}")
    if missing := [each for each in RICHNESS if each not in found]:
        print(f"without {', '.join(missing)}: data={choices['data']} knows no colours of classes")
    print(f"train on one with: data.captions_mode=mix {pasteable('data.captions_from', folder / 'names.json')}")
