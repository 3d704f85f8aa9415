"""Write docs/keys.md and docs/keys.zh-CN.md, the lists of all keys: `python scripts/document_keys.py [--check]`."""

from __future__ import annotations

import argparse

import check_environment  # noqa: F401 (one line instead of a traceback if packages are missing)

from meru.command_line import one_line_errors
from meru.configuration.pages import PAGES, page
from meru.errors import UserError
from meru.files import PROJECT, write_text


def main() -> None:
    """Write the pages, or check that they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is out of date")
    arguments = parser.parse_args()
    with one_line_errors():
        for name in PAGES:
            path, text = PROJECT / "docs" / name, page(name)
            if not arguments.check:
                write_text(path, text)
            elif not path.is_file() or path.read_text(encoding="utf-8") != text:
                raise UserError(f"{path} is out of date: run python scripts/document_keys.py", exit_code=1)


if __name__ == "__main__":
    main()
