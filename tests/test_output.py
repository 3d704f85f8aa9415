"""Standard output and error that are full, closed, or no longer read."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meru.command_line import LastingOutput, report_progress

full = pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs the device /dev/full")


@full
def test_training_goes_on_without_its_output_and_says_so_once(capsys):
    with open("/dev/full", "w", buffering=1) as stream:
        output = LastingOutput(stream)
        for _ in range(3):
            print("epoch 1/3", file=output, flush=True)
    assert capsys.readouterr().err.count("standard output fails (No space left on device)") == 1


@full
def test_output_that_is_all_that_is_wanted_fails_in_one_line(monkeypatch, capsys):
    with open("/dev/full", "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        report_progress()
        with pytest.raises(OSError, match="No space left on device: 'standard output'"):
            logging.getLogger("meru").info("a table")
        monkeypatch.undo()
    report_progress()
    assert "Logging error" not in capsys.readouterr().err


def test_streams_that_are_closed_take_what_is_printed_and_no_file_gets_it(tmp_path):
    code = (
        "import sys; from meru.command_line import one_line_errors\n"
        "with one_line_errors():\n"
        "    file = open('file', 'w'); print('out'); print('error', file=sys.stderr); file.write('whole')\n"
    )
    command = ["bash", "-c", 'exec "$0" -c "$1" >&- 2>&- <&-', sys.executable, code]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=120).returncode == 0
    assert (tmp_path / "file").read_text() == "whole"
