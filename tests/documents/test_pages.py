"""What the documents say beside their commands: figures, keys, links, the map of the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pages import READMES, blocks, commands, documents, headings, links, read, settings
from test_architecture import FLOORS

from meru.configuration import declaration
from meru.configuration.check import GROUPS
from meru.files import PROJECT
from meru.runs import ablation_file

# Words with "=" that are arguments of other commands than training.
OTHERS = {
    *("ablation", "key", "tune", "run", "split", "suite", "seeds", "jobs", "captions_per_image", "root"),
    *("probe_features", "projection", "figures", "image", "other", "text", "texts", "general", "count"),
    *("kind", "index", "images", "queries", "labels", "corruptions", "severities", "top", "host", "port", "token"),
    *("hide_heads", "attack_images", "attack_steps", "attack_strengths", "approximate", "prior_adjustment"),
}
LONGEST = 200  # lines of a README


def rows(document: str) -> list[list[str]]:
    """The figures of every table row of a document, links aside."""
    lines = [line for line in read(document).splitlines() if line.startswith("|")]
    return [re.findall(r"[\d.]*\d", re.sub(r"\]\([^)]*\)", "]", line)) for line in lines]


def test_both_readmes_have_the_same_commands_code_and_figures():
    first, second = (
        (commands(name), [re.sub(r"#.*", "", block) for block in blocks(name, "python")], rows(name))
        for name in READMES
    )
    assert first == second


@pytest.mark.parametrize("readme", READMES)
def test_readme_is_short(readme):
    assert len(read(readme).splitlines()) <= LONGEST


@pytest.mark.parametrize("readme", READMES)
def test_figures_of_the_readme_are_those_of_the_results(readme):
    results = "\n".join(read(name) for name in documents() if name.startswith("docs/results/") and "README" not in name)
    figures = re.findall(r"[\d.]+ ± [\d.]+", read(readme))
    assert len(figures) > 8
    assert [figure for figure in figures if f"| {figure} |" not in results] == []


@pytest.mark.parametrize("readme", READMES)
def test_map_has_every_folder_of_the_package(readme):
    named = re.findall(r"^ *([\w/]+/) ", read(readme), re.MULTILINE)
    folders = [path.parent for path in PROJECT.glob("meru/*/__init__.py")]
    top = ("configs", "data", "docs", "scripts", "tests", "meru")
    assert {f"{folder.name}/" for folder in folders} | {f"{name}/" for name in top} <= set(named)


def test_floors_of_the_design_are_those_of_the_architecture():
    lines = re.findall(r"^\| (\d+) \| (`[^|]+`) \|", read("docs/design.md"), re.MULTILINE)
    assert [set(re.findall(r"\w+", rooms)) for _, rooms in reversed(lines)] == FLOORS


@pytest.mark.parametrize("document", documents())
def test_links_lead_somewhere(document):
    for path, heading in links(document):
        assert path.exists(), path
        assert not heading or heading in headings(path), f"{path}#{heading}"


def test_every_key_exists_and_may_have_its_value():
    for key, value in sorted(settings()):
        if key in GROUPS:
            assert value in ("none", "mine") or (PROJECT / "configs" / key / f"{value}.yaml").exists(), f"{key}={value}"
        elif key.partition(".")[0] not in OTHERS:
            known = declaration(key)
            assert known, f"no such key: {key}={value}"
            read_value = yaml.safe_load(re.sub(r"^(\d+)e", r"\1.0e", value))
            assert known.takes(read_value) or re.fullmatch(r"[\d,]+", value), f"{key}={value}: {known.allowed}"


def test_every_picture_is_small():
    for path in Path(PROJECT, "docs", "images").glob("*"):
        assert path.stat().st_size < 100_000, path


def test_the_ablation_of_ones_own_is_one(tmp_path, monkeypatch):
    (example,) = [block for block in blocks("docs/running.md", "yaml") if "variants:" in block]
    (tmp_path / "mine.yaml").write_text(example, encoding="utf-8")
    monkeypatch.setattr(ablation_file, "ABLATIONS", tmp_path)
    ablation = ablation_file.read_ablation("mine")
    assert ablation.experiment and len(ablation.variants) == 2
