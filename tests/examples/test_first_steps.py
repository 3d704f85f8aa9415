"""The notebook runs from any folder, and is kept without outputs."""

import json
import os
import re

import pytest

from meru.files import PROJECT

PATH = PROJECT / "examples" / "first_steps.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def test_it_is_kept_without_outputs_and_paths_of_a_machine():
    for cell in CELLS:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    text = PATH.read_text(encoding="utf-8")
    assert not re.search(r"/(home|tmp|work|root|Users|mnt)/|[A-Z]:\\\\", text)


def test_cells_are_short_and_every_heading_has_a_line_in_chinese():
    for cell in CELLS:
        lines = source(cell).splitlines()
        assert len(lines) <= 25
        if cell["cell_type"] == "markdown":
            heading, chinese = lines[:2]
            assert heading.startswith("#") and re.search(r"[\u4e00-\u9fff]", chinese)


def test_it_runs_from_another_folder(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the notebook needs nbformat, nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="the notebook needs nbformat, nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="the notebook needs nbformat, nbclient and ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(PATH, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    assert len(pictures) == 3  # what was found, the disk, the discovered classes
    assert "of the way: a red parrot with a green tail" in text and "of the way: the root" in text
    assert list(tmp_path.glob("meru_*/hypgcd/clusters.csv")) and list(tmp_path.glob("meru_*/meru/test.json"))
