"""Where the processes of a group meet: a store that all of them reach, before they form the group."""

from __future__ import annotations

import os
import time
import uuid
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
        store = dist.PrefixStore(_agree(everything, number, size), everything)
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


def _agree(store: dist.Store, number: int, size: int) -> str:
    """A name for this meeting, the same in all of its processes.

    Processes that torchrun has started again may find the store of earlier ones, with all they wrote. So the main
    process gives a new name, every other one answers with a mark of its own, and goes on when its mark comes back.
    """
    until, mark = time.monotonic() + PATIENCE.total_seconds(), uuid.uuid4().hex
    if number == 0:
        store.set("meeting", mark)
        answers = [f"{mark}/{other}" for other in range(1, size)]
        while answers and not store.check(answers):
            if time.monotonic() > until:
                absent = [str(other) for other in range(1, size) if not store.check([f"{mark}/{other}"])]
                more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
                raise _Absent(f"{'ranks' if len(absent) > 1 else 'rank'} {', '.join(absent[:8])}{more}")
            time.sleep(0.02)
        for answer in answers:
            store.set(f"{answer}/seen", store.get(answer))
        return mark
    while time.monotonic() < until:
        if store.check(["meeting"]):
            meeting = store.get("meeting").decode()
            store.set(f"{meeting}/{number}", mark)
            seen = f"{meeting}/{number}/seen"
            if store.check([seen]) and store.get(seen).decode() == mark:
                return meeting
        time.sleep(0.02)
    raise RuntimeError("timeout")
