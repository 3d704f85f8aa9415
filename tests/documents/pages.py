"""The documents of the project, and what stands in them: commands, Python, tables, links."""

from __future__ import annotations

import re
from pathlib import Path

from meru.files import PROJECT

READMES = ("README.md", "README.zh-CN.md")
EXAMPLES = ("docs/add.md", "docs/add.zh-CN.md")  # about files that are not there: test_add.py tries them in a copy
PROGRAMS = r"(?:NGPU=\d+ )?(?:bash|python) "
# The words that stand for something of the reader's.
RUN, FILE, FOLDER = "<run folder>", "<file>", "<folder>"


def documents() -> list[str]:
    """All Markdown files that belong to the project, by their paths in it."""
    found = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), PROJECT / "data" / "README.md"]
    return sorted(str(path.relative_to(PROJECT)) for path in found)


def read(document: str) -> str:
    return (PROJECT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    """The text of the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(document), re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[str]:
    """Commands of the bash blocks, comments taken off, then those within sentences that leave nothing out ("…")."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    shown = [line.split(" #")[0] for line in lines if line and not line.startswith("#")]
    sentences = re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(rf"`({PROGRAMS}[^`]+)`", sentences)
    return [" ".join(command.split()) for command in [*shown, *inline] if "…" not in command]


def places(command: str) -> list[str]:
    """The documents that hold a command."""
    return [document for document in documents() if command in commands(document)]


def every_command() -> list[str]:
    """All commands of all documents but `EXAMPLES`, each once."""
    return sorted({command for document in documents() if document not in EXAMPLES for command in commands(document)})


def settings() -> set[tuple[str, str]]:
    """Every `key=value` that stands within a sentence or a table of any document."""
    text = "\n".join(re.sub(r"^```.*?^```", "", read(name), flags=re.DOTALL | re.MULTILINE) for name in documents())
    words = {word.rstrip(",") for code in re.findall(r"`([^`]+)`", text) for word in code.split() if "=" in word}
    return {(match[1], match[2]) for word in words if (match := re.fullmatch(r"\+*([a-z_.\d]+)=([^<>…]+)", word))}


def links(document: str) -> list[tuple[Path, str]]:
    """The files that a document links to, with the heading in them, if any."""
    targets = re.findall(r"\]\((?!http)([^)\s]+)\)", read(document))
    folder = (PROJECT / document).parent
    pairs = [target.partition("#")[::2] for target in targets]
    return [(folder / path if path else PROJECT / document, heading) for path, heading in pairs]


def headings(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
