"""Exit with 0 if this Python can run meru from this checkout; otherwise print what is missing and exit with 1.

    python scripts/check_environment.py          what training needs
    python scripts/check_environment.py test     what the tests need as well

Reads only package metadata, because importing torch would delay every launch by seconds.

The other scripts import this file first: under a Python without the packages they end with one line instead of a
traceback.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def requirements(name):
    """The strings of the list `name = [...]` in pyproject.toml (tomllib came only with Python 3.11)."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"(.+?)"', re.search(rf"^{name} = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1])


def lacking(requirement):
    from packaging.requirements import Requirement  # not in the standard library

    requirement = Requirement(requirement)
    try:
        return not requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return True


def main():
    if sys.version_info < (3, 10):  # noqa: UP036 (any Python may be asked)
        return ["Python >= 3.10"]
    if find_spec("packaging") is None:
        return ["packaging"]
    wanted = requirements("dependencies") + (requirements("test") if "test" in sys.argv[1:] else [])
    missing = [requirement for requirement in wanted if lacking(requirement)]
    meru = find_spec("meru")
    if meru is None or meru.origin is None or Path(meru.origin).resolve().parent != PROJECT / "meru":
        missing.append("meru of this checkout")
    return missing


def explain(kind, error, trace):
    """Take the place of `sys.excepthook`: name what this Python lacks if that may be why an import failed."""
    missing = main() if isinstance(error, ImportError) or sys.version_info < (3, 10) else []
    if not missing:
        sys.__excepthook__(kind, error, trace)
        return
    print(
        "error: {} lacks what this project needs ({}): activate its environment, `. .venv/bin/activate`; the first "
        "`bash train_cub.sh` makes it".format(sys.executable, ", ".join(missing)),
        file=sys.stderr,
    )
    sys.exit(2)


if __name__ != "__main__":
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = explain
else:
    missing = main()
    print(", ".join(missing))
    sys.exit(bool(missing))
