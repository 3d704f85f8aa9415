"""How runs end: no wait is endless, the first failure is said once, signals and a dead parent end every process."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import Dataset

from meru import cluster, distributed, failures, stopping
from meru.command_line import one_line_errors
from meru.data.workers import Loader, loader_options
from meru.errors import UserError
from meru.files import PROJECT

TORCHRUN = [sys.executable, PROJECT / "scripts" / "torchrun.py", "--standalone", "--nproc-per-node=2"]


# ------------------------------------------------------------------------------------------------ workers
class Unsendable:
    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Troubled(Dataset):
    """The second batch meets the trouble."""

    def __init__(self, trouble):
        self.trouble = trouble

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.trouble() if index == 1 else torch.tensor(index)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)


def crashed():
    os.kill(os.getpid(), signal.SIGTRAP)


def stuck():
    time.sleep(60)


def without_shared_memory():
    return Unsendable(RuntimeError("unable to allocate shared memory(shm) for file </t>: No space left on device (28)"))


def without_files():
    return Unsendable(OSError(errno.EMFILE, "Too many open files"))


def left():
    os._exit(3)


def batches_of(trouble, *, wait=30.0, workers=2):
    options = loader_options(workers, wait)
    return Loader(Troubled(trouble), batch_size=1, collate_fn=lambda samples: samples[0], **options)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
@pytest.mark.parametrize(
    ("trouble", "wait", "parts"),
    [
        (killed, 30, ("killed (SIGKILL)", "memory", "data.workers")),
        (crashed, 30, ("crashed (SIGTRAP)", "data.workers=0")),
        (left, 30, ("exit code 3", "data.workers=0")),
        (without_shared_memory, 30, ("/dev/shm", "--shm-size", "data.workers=0")),
        (without_files, 30, ("too many open files", "ulimit -n", "data.workers=0")),
        (stuck, 1, ("for 1 s", "data.timeout", "disk")),
        (stopped, 1, ("for 1 s", "data.timeout")),
    ],
)
def test_whatever_befalls_a_worker_is_one_line_and_an_end(trouble, wait, parts):
    handler = signal.getsignal(signal.SIGCHLD)
    began = time.monotonic()
    with pytest.raises(UserError) as error:
        list(batches_of(trouble, wait=wait))
    assert all(part in str(error.value) for part in parts) and "\n" not in str(error.value)
    assert error.value.exit_code == 1
    assert time.monotonic() - began < 20
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_timeout_is_a_number_of_seconds():
    with pytest.raises(UserError, match=r"data\.timeout=-1"):
        batches_of(stuck, wait=-1)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_signal_ends_the_wait_for_a_batch(monkeypatch, tmp_path):
    monkeypatch.setattr("meru.data.workers.PATIENCE", 0.1)
    asked = []
    with pytest.raises(stopping.Stopped) as error, stopping.at_next_step(lambda: asked.append(True), run=tmp_path):
        signal.raise_signal(signal.SIGTERM)
        list(batches_of(stuck))
    assert asked == [True]
    assert stopping.reason(error.value) == (f"stopped by SIGTERM; to go on: resume={tmp_path}", 143)


# ------------------------------------------------------------------------------------------------ signals
def test_the_first_signal_is_raised_where_the_run_stands_and_handlers_come_back(capsys):
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    for number, message, code in ((signal.SIGTERM, "stopped by SIGTERM", 143), (signal.SIGINT, "interrupted", 130)):
        with pytest.raises(SystemExit) as left, one_line_errors(), stopping.listening():
            signal.raise_signal(number)
        assert left.value.code == code
        assert capsys.readouterr().err == f"error: {message}\n"
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


DEAF = """
import signal, sys, time
from meru import stopping
stopping.UNMOVED, stopping.UNHEARD = 1.0, 1.0
with stopping.at_next_step(lambda: None, run="runs/deaf"):
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("signals", "message", "code"),
    [
        ([signal.SIGTERM], "before its next step", 143),  # nothing moves any more
        ([signal.SIGTERM, signal.SIGINT], "by SIGINT at once by a second signal", 130),
    ],
)
def test_a_run_that_does_not_get_to_its_next_step_ends(signals, message, code):
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF if len(signals) == 1 else DEAF.replace("1.0, 1.0", "50.0, 50.0")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT,
    )  # fmt: skip
    process.stdout.readline()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.7)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors.startswith("error: stopped ") and message in errors and "resume=runs/deaf" in errors
    assert errors.count("\n") == 1


# ------------------------------------------------------------------------------------------------ several processes
FAULT = """
from meru import distributed, stopping
from meru.command_line import one_line_errors
with one_line_errors(), stopping.listening():
    distributed.start()
    if distributed.rank() == 1:
        1 / 0
    distributed.wait_for_all()
"""
STEPS = """
import os, sys, time
from pathlib import Path
from meru import stopping
asked, folder, rank = [], Path(sys.argv[1]), os.environ["RANK"]
stopping.follow_parent()
with stopping.at_next_step(lambda: asked.append(1), run=folder):
    (folder / f"{rank}.begun").touch()
    while not asked:
        time.sleep(0.05)
(folder / f"{rank}.saved").touch()
print("stopped", flush=True)
"""


@pytest.fixture
def ranks(tmp_path):
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "CUDA_VISIBLE_DEVICES": ""}

    def start(script):
        (tmp_path / "ranks.py").write_text(script)
        return subprocess.Popen(
            [*TORCHRUN, tmp_path / "ranks.py", tmp_path],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings,
        )  # fmt: skip

    return start


def test_the_first_failure_of_any_process_is_said_once_and_last(ranks):
    process = ranks(FAULT)
    _, errors = process.communicate(timeout=120)
    lines = errors.strip().splitlines()
    assert process.returncode == 1
    assert lines[-1] == "error: rank 1: ZeroDivisionError: division by zero" and lines[0].startswith("Traceback")
    assert errors.count("error: ") == errors.count("Traceback") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_save_and_end_with_torchrun(ranks, tmp_path, number):
    process = ranks(STEPS)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)  # ends when the last process has closed them
    assert process.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL), errors
    assert output.count("stopped") == 2 and not errors
    assert {path.name for path in tmp_path.glob("*.saved")} == {"0.saved", "1.saved"}


@pytest.mark.parametrize(
    ("words", "exit_codes", "came", "expected"),
    [
        ({"first": ("error: rank 1: full", 7)}, {0: 1, 1: 7}, [], ("error: rank 1: full", 7)),
        ({"first": ("error: rank 1: full", 7), "lost": ("error: rank 0: gone", 1)}, {0: -9}, [], ("rank 1: full", 7)),
        ({"lost": ("error: rank 0: gone", 1)}, {0: 1, 1: -9}, [], ("rank 1: killed by SIGKILL, probably", 137)),
        ({"lost": ("error: rank 0: gone", 1)}, {0: 1}, [], ("rank 0: gone", 1)),
        ({"first": ("error: rank 0: stopped by SIGTERM", 143)}, {0: 143, 1: -9}, [], ("rank 1: killed by", 137)),
        ({}, {0: -15, 1: -9}, [], ("rank 1: killed by SIGKILL", 137)),
        ({}, {1: 3}, [], ("rank 1: ended with exit code 3", 3)),
        ({}, {1: -15}, [15], ("error: stopped by SIGTERM", 143)),
        ({}, {1: -11, 0: -15}, [], ("rank 1: killed by SIGSEGV", 139)),
    ],
)
def test_torchrun_names_the_process_that_failed_first(words, exit_codes, came, expected, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    torchrun = importlib.import_module("torchrun")
    for name, (line, exit_code) in words.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"line": line, "exit_code": exit_code}))
    line, exit_code = torchrun.first_failure(tmp_path, exit_codes, came)
    assert expected[0] in line and line.startswith("error: ") and exit_code == expected[1]


def test_only_the_first_process_of_a_machine_speaks(tmp_path, monkeypatch, capsys):
    error_file = tmp_path / "attempt_0" / "1" / "error.json"
    error_file.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(error_file))
    monkeypatch.setattr(failures, "_place", {"rank": 1, "processes": 2, "said": False})
    assert not failures.reported()
    failures.report("the disk\n is full", 1)
    assert capsys.readouterr().err == "error: rank 1: the disk is full\n"
    monkeypatch.setattr(failures, "_place", {"rank": 0, "processes": 2, "said": False})
    assert failures.reported()
    failures.report("connection closed", 1, lost=True)
    failures.report("the disk is full", 1)
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "attempt_0" / "first.json").read_text())["exit_code"] == 1


# ------------------------------------------------------------------------------------------------ the environment
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "1"}, None),  # left over
        ({"LOCAL_RANK": "7"}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": ""}, None),
        ({"WORLD_SIZE": "1", "RANK": "3", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, (0, 1)),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, (1, 2)),
    ],
)
def test_a_group_is_joined_where_one_is_described(variables, expected, monkeypatch):
    only(variables, monkeypatch)
    group = cluster.described_group()
    assert (group and (group.rank, group.size)) == expected


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE=abc is not an integer"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2"),
        ({"WORLD_SIZE": "4", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "4", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, "RANK=2: .* 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "x"}, "MASTER_PORT=x"),
    ],
)
def test_half_a_description_is_one_line(variables, message, monkeypatch):
    only(variables, monkeypatch)
    with pytest.raises(UserError, match=f"{message}.*unset RANK WORLD_SIZE") as error:
        distributed.start()
    assert error.value.exit_code == 2


def only(variables, monkeypatch):
    for name in cluster.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
