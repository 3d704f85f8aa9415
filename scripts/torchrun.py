"""torchrun without its traceback: ends with the exit code of the process that failed and has said why."""

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        exit_code = error.get_first_failure()[1].exitcode
        sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)  # negative: killed by that signal
    except SignalException as error:
        sys.exit(128 + error.sigval)
