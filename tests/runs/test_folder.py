"""Run folders: one owner at a time, and nothing left behind."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from omegaconf import OmegaConf

from meru.errors import UserError
from meru.files import PROJECT
from meru.runs.folder import commit, hold, make_run_folder, release

CONFIG = {"folder": None, "output": "runs", "name": "bird"}


@pytest.fixture
def config(tmp_path):
    return OmegaConf.create({**CONFIG, "output": str(tmp_path / "runs")})


def made_by_another(config, queue, start):
    start.wait()
    queue.put(make_run_folder(config))


def test_runs_that_start_in_the_same_second_have_a_folder_each(config):
    context = multiprocessing.get_context("fork")
    queue, start = context.Queue(), context.Event()
    processes = [context.Process(target=made_by_another, args=(config, queue, start)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    folders = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(folders) == 6 and all((folder / "config.yaml").is_file() for folder in folders)


HOLD = """
import sys, time
from pathlib import Path
from meru.runs.folder import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=PROJECT)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_in_use_is_refused_until_its_holder_is_dead(tmp_path, holder):
    with pytest.raises(UserError, match=f"{tmp_path} is in use by process {holder.pid} on ") as error:
        hold(tmp_path)
    assert error.value.exit_code == 1
    holder.kill()  # by SIGKILL: it can clean up nothing
    holder.wait()
    hold(tmp_path)
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_workers_do_not_inherit_the_hold(tmp_path):
    """A worker may outlive a main process that was killed by a few seconds."""
    code = HOLD.replace("time.sleep(60)", "import os; os.fork() or time.sleep(30); os._exit(0)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    hold(tmp_path)
    release(tmp_path)
    assert time.monotonic() - began < 10


def test_two_runs_that_are_given_one_folder_do_not_both_have_it(tmp_path, config, holder):
    config.folder = str(tmp_path)
    with pytest.raises(UserError, match="is in use by process"):
        make_run_folder(config)


@pytest.mark.parametrize("left", [[".last.pt.123.tmp"], [".lock", "asked.yaml"], [".config.yaml.99.tmp", ".lock"]])
def test_what_a_killed_run_left_does_not_count(tmp_path, config, left):
    config.folder = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).write_text("half")
    folder = make_run_folder(config)
    release(folder)
    assert {path.name for path in folder.iterdir()} == {"asked.yaml", "config.yaml"}


def test_what_is_someone_elses_does_count(tmp_path, config):
    config.folder = str(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"folder={tmp_path} is not empty"):
        make_run_folder(config)
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_repeated_command_says_what_the_folder_holds(tmp_path, config):
    config.folder, config.seed = str(tmp_path / "run"), 0
    folder = make_run_folder(config)
    release(folder)
    (folder / "last.pt").touch()
    said = f"folder={folder} holds "
    for finished in (False, True):
        if finished:
            (folder / "test.json").write_text("{}")
        now = (
            r"the finished run of this command; its figures are in .*test.json: choose another folder"
            if finished
            else f"an unfinished run of this command: go on with resume={folder}"
        )
        with pytest.raises(UserError, match=said + now):
            make_run_folder(config)
        with pytest.raises(UserError, match=said + r"\w+ \w+ run of another configuration \(seed=0, now 1\)"):
            make_run_folder(OmegaConf.merge(config, {"seed": 1, "output": "elsewhere"}))


def test_a_folder_is_found_by_tilde_and_relative_to_where_the_user_stands(tmp_path, config, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "家"))
    monkeypatch.chdir(tmp_path)
    for given, wanted in (("~/my runs/a,b", "家/my runs/a,b"), ("run=1", "run=1")):
        config.folder = given
        folder = make_run_folder(config)
        release(folder)
        assert folder == tmp_path / wanted


def test_a_place_where_no_folder_can_be_made_is_one_line(tmp_path, config):
    (tmp_path / "file").write_text("")
    config.folder = str(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot make a run folder: .*file"):
        make_run_folder(config)


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_without_git_the_commit_is_unknown(monkeypatch, path):
    monkeypatch.setitem(os.environ, "PATH", path)
    assert commit() == "unknown"
