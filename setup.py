"""Puts configs/ into the wheel, as meru/configs; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """An editable install reads configs/ where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy = Path(self.build_lib) / "meru" / "configs"
            shutil.rmtree(copy, ignore_errors=True)  # an earlier build may have left files that are gone
            shutil.copytree("configs", copy)


setup(cmdclass={"build_py": BuildWithConfigs})
