"""A Python whose imports are done: two thirds of what a short command costs is the import of PyTorch and the rest.

A server imports them once and forks a process for every command; `python` in a folder `bin` beside it hands the command
over with its directory, environment and standard streams, and ends as the command ends. So commands run as users type
them, through the shell scripts too, only without the wait. What is no script of the project goes to the real Python.

Not for tests that kill a process or look at what it imports: those start `sys.executable`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SCRIPTS = PROJECT / "scripts"

CLIENT = """#!{python} -IS
import json, os, socket, sys
real, given = {python!r}, sys.argv[1:]
if not given or os.path.dirname(os.path.realpath(given[0])) != {scripts!r} or given[0].endswith("check_environment.py"):
    os.execv(real, [real, *given])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = json.dumps({{"arguments": given, "directory": os.getcwd(), "environment": dict(os.environ)}}).encode()
socket.send_fds(server, [len(command).to_bytes(8, "big")], [0, 1, 2])
server.sendall(command)
code = int(server.makefile().read() or 1)
if code < 0:
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextlib.contextmanager
def warm_environment() -> Iterator[Path]:
    """A folder with `bin/python`, as `VIRTUAL_ENV` names one."""
    with tempfile.TemporaryDirectory(prefix="warm_") as folder:
        python, address = Path(folder, "bin", "python"), str(Path(folder, "socket"))
        python.parent.mkdir()
        python.write_text(CLIENT.format(python=sys.executable, scripts=str(SCRIPTS), address=address))
        python.chmod(0o755)
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
        server = subprocess.Popen([sys.executable, __file__, address, python], env=settings)
        while not Path(address).exists():
            assert server.poll() is None, "the server did not start"
            time.sleep(0.01)
        try:
            yield Path(folder)
        finally:
            server.kill()
            server.wait()


def serve(address: str, python: str) -> Callable[[], None]:
    """Fork a process for every command. It returns in such a process only, with the function that runs the command."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()  # a command that comes during the imports waits
    import meru.runs.ablation
    import meru.runs.evaluate
    import meru.runs.train
    import meru.runs.visualize  # noqa: F401

    gc.freeze()  # a fork then copies fewer pages
    parent = os.getppid()
    while os.getppid() == parent:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not select.select([listener], [], [], 1.0)[0]:
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return attend(connection, python)
        connection.close()
    sys.exit()


def attend(connection: socket.socket, python: str) -> Callable[[], None]:
    """Fork once more; this process waits for the command and answers with its exit code."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    body = connection.makefile("rb").read(int.from_bytes(head, "big"))
    child = os.fork()
    if child == 0:
        connection.close()
        return lambda: run(**json.loads(body), streams=streams, python=python)
    for stream in streams:
        os.close(stream)
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if select.select([connection], [], [], 0.02)[0]:  # its caller is gone
            os.kill(child, 9)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(done[1])).encode())
    os._exit(0)


def run(*, arguments: list[str], directory: str, environment: dict[str, str], streams: list[int], python: str) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv, sys.orig_argv = arguments, [python, *arguments]
    sys.executable = python
    sys.path[0] = os.path.dirname(os.path.realpath(arguments[0]))
    random.seed()
    if media := sys.modules.get("wandb.sdk.data_types._private"):  # a folder that the command before has removed
        os.makedirs(media.MEDIA_TMP.name, exist_ok=True)
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter would take seconds to take itself apart


if __name__ == "__main__":
    serve(*sys.argv[1:])()
