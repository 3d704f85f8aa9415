"""scripts/report.py: one line for every mistake, and a file that needs nothing else."""

import subprocess

import pytest

from meru.files import PROJECT

SCRIPT = PROJECT / "scripts" / "report.py"


def call(python, *words, cwd):
    return subprocess.run([python, SCRIPT, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_it_prints_where_the_report_is(tmp_path, warm_python):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: birds_meru\nseed: 0\n")
    done = call(warm_python, "run=run", "output=new/r.html", "lang=zh", cwd=tmp_path)
    assert done.stdout == f"report: {tmp_path / 'new' / 'r.html'}\n", done.stderr
    assert "birds_meru" in (tmp_path / "new" / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lang=zh"], "run= is missing: give the folders of runs"),
        (["run=nowhere"], "run=nowhere: no run folder has this name"),
        (["run="], "run=: give the folders of runs"),
        (["runs=x"], "did you mean run=?"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, warm_python):
    done = call(warm_python, *words, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
