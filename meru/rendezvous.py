"""Where the processes of a group meet: a store that all of them reach, before they form the group."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch.distributed as dist

from meru.cluster import ALONE, Group
from meru.errors import UserError

PATIENCE = timedelta(minutes=10)


def meet(group: Group) -> tuple[dist.Store, int, int]:
    """Wait for the other processes, at most `PATIENCE`; returns the store, this process's rank and their number.

    Raises:
        UserError: if some do not come, or the port is taken.
    """
    os.environ.update(RANK=str(group.rank), WORLD_SIZE=str(group.size), LOCAL_RANK=str(group.local))
    os.environ.update(MASTER_ADDR=group.address, MASTER_PORT=group.port)
    try:
        everything, number, size = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
        everything.set_timeout(PATIENCE)
        # Processes that torchrun has started again may find the store of the earlier ones.
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", everything)
        _wait(store, number, size)
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(
                f"MASTER_PORT={group.port} is in use on this machine, perhaps by another run: choose "
                "another port (torchrun --master-port=29501)",
                exit_code=1,
            ) from error
        who = f"{error} did not come" if isinstance(error, _Absent) else f"not all of {group.size} processes came"
        raise UserError(
            f"{who} to {group.address}:{group.port} (MASTER_ADDR, MASTER_PORT) within "
            f"{PATIENCE.total_seconds() / 60:g} minutes: check that each process was started and can reach that "
            f"address; {ALONE}",
            exit_code=1,
        ) from error
    return store, number, size


class _Absent(RuntimeError):
    """Some processes did not come; the message names them."""


def _wait(store: dist.Store, number: int, size: int) -> None:
    store.set(f"here/{number}", "")
    until = time.monotonic() + PATIENCE.total_seconds()
    while not store.check([f"here/{other}" for other in range(size)]):
        if time.monotonic() > until:
            absent = [str(other) for other in range(size) if not store.check([f"here/{other}"])]
            more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
            raise _Absent(f"{'ranks' if len(absent) > 1 else 'rank'} {', '.join(absent[:8])}{more}")
        time.sleep(0.02)
