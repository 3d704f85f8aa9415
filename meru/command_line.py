"""Output of the scripts: plain lines for progress, one line and an exit code for a user's mistake."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import ctypes
import functools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TextIO

from meru import failures, stopping
from meru.configuration import check, notes
from meru.configuration.composing import configuration_message, help_text, register_resolvers
from meru.configuration.kinds import Kind, Whole
from meru.configuration.overrides import overrides_of, readable, typed_keys
from meru.errors import UserError
from meru.files import CHECKOUT, CONFIGS, os_error_message

# Replacements for characters that the terminal's encoding lacks.
_IN_ASCII = {"→": "->", "±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "λ": "lambda", "α": "alpha", "−": "-"}

# Seconds that the interpreter may take to exit after a failure; less where other processes wait for it.
LEAVING, LEAVING_OF_ONE = 60.0, 10.0


def report_progress() -> None:
    """Send the package's messages to standard output."""
    handler = _Lines(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("meru")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)  # distributed.start() lowers it in other processes than the main one
    logger.propagate = False
    logger.disabled = False  # Hydra disables it before every job but the first


class _Lines(logging.StreamHandler):
    """Handler that raises the stream's errors instead of printing logging's own tracebacks."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if not isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # else Python complains at its end
        raise OSError(error.errno, error.strerror, "standard output")


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a user's mistake, a file system error or a signal into one line on standard error and an exit code.

    With several processes, any other exception also ends in such a line, after its traceback. See `meru.failures`.
    """
    print_everywhere()
    try:
        yield
    except UserError as error:
        _leave(str(error), error.exit_code)
    except KeyboardInterrupt as error:
        _leave(*stopping.reason(error))
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it. Python would complain again when it closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # libraries raise OSErrors without a number
            _leave(os_error_message(error), 1)
        if failures.lost_partner(error):
            cause = failures.cause_of_loss() or _last_words(error)
            _leave(f"the connection to another process broke: {cause}", 1, lost=True)
        if not failures.several():
            raise
        _leave(f"{type(error).__name__}: {error}", 1, details=traceback.format_exc())


def _last_words(error: Exception) -> str:
    """A library's message without the source location at its beginning."""
    return str(error).strip().split("\n")[0].rpartition("] ")[2] or type(error).__name__


def print_everywhere() -> None:
    """Let standard output and error accept any text, even if the terminal's encoding lacks some characters."""
    open_closed_streams()
    codecs.register_error("spelt out", _spelt_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelt out")


def open_closed_streams() -> None:
    """Open standard streams that were closed (`2>&-`) on the null device.

    Otherwise Python sets them to None, and printed text goes into the next file that is opened.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))


class LastingOutput:
    """Standard output that reports its first failure on standard error and is silent afterwards, so training goes on.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._or_silent():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._or_silent():
            self._stream.flush()

    @contextlib.contextmanager
    def _or_silent(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            line = f"warning: standard output fails ({error.strerror}): the run goes on without it"
            with contextlib.suppress(OSError):
                print(f"{line}, its figures are in the run folder", file=sys.stderr, flush=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    known = "".join(_IN_ASCII.get(each) or each.encode("ascii", "backslashreplace").decode() for each in characters)
    return known, error.end


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors instead of returning it to the kernel after every use.

    The page faults of allocating it again cost a CPU run more than half of its time. Does nothing without glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        allocator.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and the heap does not shrink


def argument(kind: Kind, make: Callable[[Any], Any] = lambda value: value) -> Callable[[str], Any]:
    """A `type` function for argparse: `make` gets valid values; for others the error says what is allowed."""

    def read(text: str) -> Any:
        value = int(text) if isinstance(kind, Whole) and re.fullmatch(r"[+-]?[0-9]+", text) else text
        if not kind.takes(value):
            raise argparse.ArgumentTypeError(f"'{text}': give {kind.allowed}")
        return make(value)

    return read


def words_or_usage(usage: str | None) -> list[str]:
    """The words of the command line; without any, or if one asks for help, print the usage and exit."""
    words = sys.argv[1:]
    if not words or {"-h", "--help"} & set(words):
        print(usage)
        sys.exit(0 if words else 2)
    return words


def own_arguments(words: Sequence[str], meanings: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Split the command line into the words `key=value` whose key is in `meanings`, as a dict, and all others.

    A value may contain any character, including commas and equals signs.

    Raises:
        UserError: for an empty value; the message says what to give.
    """
    own, others = {}, []
    for word in words:
        key, _, value = word.partition("=")
        if "=" not in word or key not in meanings:
            others.append(word)
        elif not value.strip():
            raise UserError(f"{key}=: give {meanings[key]}; see --help")
        else:
            own[key] = value
    return own, others


def only_own_arguments(words: Sequence[str], meanings: Mapping[str, str]) -> dict[str, str]:
    """As `own_arguments`, for a script that takes no other words.

    Raises:
        UserError: for any other word, and for an empty value.
    """
    own, others = own_arguments(words, meanings)
    if others:
        near = get_close_matches(others[0].partition("=")[0], meanings, n=1)
        advice = f"; did you mean {near[0]}=?" if near else ""
        raise UserError(f"'{others[0]}': expected key=value with one of {', '.join(meanings)}{advice}")
    return own


def numbers_of(given: Mapping[str, str], kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """The values of the keys in `kinds` that are given, as numbers.

    Raises:
        UserError: for a value that is no number of its kind; the message says what is allowed.
    """
    numbers = {key: int(given[key]) if given[key].isdecimal() else given[key] for key in kinds if key in given}
    for key, value in numbers.items():
        if not kinds[key].takes(value):
            raise UserError(f"{key}={value}: give {kinds[key].allowed}")
    return numbers


def hydra_main(task: Callable, *, config_name: str) -> None:
    """Run `task(config)` under Hydra, with one-line configuration errors; SIGTERM and Ctrl-C end it even in a wait.

    Hydra makes no folders and configures no logging: each run makes its own folder. Every key is checked before the
    task begins.
    """
    with one_line_errors(), stopping.listening():
        _run_under_hydra(task, config_name)


def _run_under_hydra(task: Callable, config_name: str) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    keep_freed_memory()
    words = [override for word in sys.argv[1:] for override in overrides_of(word)]
    if CHECKOUT and any(word.startswith("hydra/launcher=") for word in words):
        # Its processes must find this package.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    # Hydra would stop reading overrides at a flag among them.
    sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra raise errors instead of printing them
    warnings.filterwarnings("ignore", module="hydra")

    @functools.wraps(task)
    def guarded(config):
        if config_name == "train" and not isinstance(sys.stdout, LastingOutput):
            sys.stdout = LastingOutput(sys.stdout)
        register_resolvers()  # again, because a launcher may have started another process
        report_progress()  # here, because Hydra configures logging before it calls the task
        with one_line_errors(), stopping.listening():
            try:
                check(config, command=config_name, typed=typed_keys(HydraConfig.get().overrides.task))
                for note in notes(config):
                    logging.getLogger("meru").info("note: %s", note)
                task(config)
            except InstantiationException as error:
                # Hydra wraps the constructor's exception; a TypeError means a key that the constructor lacks.
                if error.__cause__ is None or isinstance(error.__cause__, (TypeError, ImportError)):
                    raise UserError(configuration_message(error)) from error
                raise error.__cause__ from None
            except OmegaConfBaseException as error:
                raise UserError(configuration_message(error)) from error

    with one_line_errors():
        sys.argv[1:] = readable(sys.argv[1:], command=config_name)
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_text([word for word in sys.argv[1:] if not word.startswith("-")], command=config_name))
            return
        try:
            hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)(guarded)()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(configuration_message(error)) from error
        except Exception as error:
            if 'Could not detect "srun"' in str(error):  # submitit's words
                raise UserError(
                    "hydra/launcher=slurm: there is no srun here: start this where SLURM's commands are, or try it "
                    "with hydra/launcher=submitit_local"
                ) from error
            if type(error).__module__.partition(".")[0] != "submitit":
                raise
            raise UserError(_failure_of_job(str(error)), exit_code=1) from error


def _failure_of_job(message: str) -> str:
    """What submitit says of a failed job, on one line: the job's last line, and where the rest is."""
    lines = [line for line in message.splitlines() if line.strip()]
    folder = re.search(r"with path (\S+)_result\.pkl", message)
    where = f"; its output: {folder[1]}_log.err" if folder else ""
    return f"a job failed: {lines[-1].removeprefix('error: ')}{where}"


def _leave(message: str, exit_code: int, **said) -> None:
    failures.report(message, exit_code, **said)
    stopping.leave_within(LEAVING_OF_ONE if failures.several() else LEAVING, exit_code)
    sys.exit(exit_code)
