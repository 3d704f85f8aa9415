"""Processes meet in a store that may hold what earlier ones have left."""

import threading

import pytest
import torch.distributed as dist

from meru import rendezvous


def meeting(store, size, order):
    """The names on which processes of a group agree, by rank; they arrive in the given order."""
    names = {}
    threads = [
        threading.Thread(target=lambda rank=rank: names.update({rank: rendezvous._agree(store, rank, size)}))
        for rank in order
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return names


def test_a_second_group_in_the_same_store_meets_anew():
    store, names = dist.HashStore(), set()
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        found = meeting(store, 3, order)
        assert sorted(found) == [0, 1, 2] and len(set(found.values())) == 1
        names |= set(found.values())
    assert len(names) == 3


def test_those_who_did_not_come_are_named(monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr(rendezvous, "PATIENCE", timedelta(seconds=0.1))
    with pytest.raises(RuntimeError, match="ranks 1, 2"):
        rendezvous._agree(dist.HashStore(), 0, 3)
