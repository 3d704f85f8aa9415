"""Files about the project agree with what they are about."""

import re

import yaml

import meru
from meru.configuration.older import RENAMED_KEYS, REPLACED_KEYS
from meru.files import PROJECT


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def test_pre_commit_has_the_pinned_ruff():
    (pinned,) = re.findall(r"^ruff==(\S+)$", read("constraints.txt"), re.MULTILINE)
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["rev"] == f"v{pinned}"


def test_the_citation_has_what_its_schema_needs_and_the_present_version():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == meru.__version__
    assert f'version = "{meru.__version__}"' in read("pyproject.toml")


def test_every_renamed_key_stands_in_the_changelog():
    changelog = read("CHANGELOG.md")
    missing = [key for key in [*RENAMED_KEYS, *REPLACED_KEYS] if f"`{key}" not in changelog]
    assert not missing
