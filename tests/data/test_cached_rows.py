"""The files of cached rows: their key, damage to them, waiting for them, and the choice of views."""

import errno
import logging
import os
import threading

import pytest
import torch
from torchvision.transforms import v2

from meru.data.augmentation import RandomPicks
from meru.data.cache_files import cache_folder, image_facts
from meru.data.cached_rows import ViewChoice, ViewsOfImages, stored_rows, transform_facts
from meru.data.transforms import EvaluationTransform, training_transform
from meru.errors import UserError

SHAPE = (5, 2, 3)


class Source:
    """Rows 0, 1, 2, … in batches, and how often they were asked for."""

    def __init__(self, value=0.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        rows = torch.arange(30, dtype=torch.float16).view(SHAPE) + self.value
        yield from rows.split(2)


def stored(folder, source, facts="facts"):
    return stored_rows(folder, facts, shape=SHAPE, compute=source, what="rows")


def test_rows_are_computed_once_and_for_other_facts_again(tmp_path):
    source = Source()
    first, second = stored(tmp_path / "new", source), stored(tmp_path / "new", source)
    assert source.calls == 1 and torch.equal(first, second)
    assert torch.equal(first.flatten(), torch.arange(30, dtype=torch.float16))
    stored(tmp_path / "new", source, facts="others")
    assert source.calls == 2


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "no description", "half a description"])
def test_damaged_files_are_computed_again(damage, tmp_path, caplog):
    source = Source()
    stored(tmp_path, source)
    (rows,), (description,) = tmp_path.glob("*.bin"), tmp_path.glob("*.json")
    if damage == "truncated":
        os.truncate(rows, 30)
    elif damage == "other bytes":
        rows.write_bytes(bytes(60))
    elif damage == "no description":
        description.unlink()
    else:
        description.write_text(description.read_text()[:20])
    with caplog.at_level(logging.WARNING, logger="meru"):
        again = stored(tmp_path, source)
    assert source.calls == 2 and torch.equal(again.flatten(), torch.arange(30, dtype=torch.float16))
    assert ("is damaged and is computed again" in caplog.text) == (damage != "no description")


def test_two_at_once_compute_once(tmp_path):
    pytest.importorskip("fcntl")
    source, entered, found = Source(), threading.Event(), []

    def slow():
        entered.set()
        threading.Event().wait(0.3)
        yield from source()

    threads = [threading.Thread(target=lambda: found.append(stored(tmp_path, slow)))]
    threads[0].start()
    entered.wait(10)
    other = stored(tmp_path, Source(value=1))
    threads[0].join()
    assert source.calls == 1 and torch.equal(other, found[0])


def test_nothing_is_left_of_a_computation_that_failed(tmp_path):
    def failing():
        yield torch.zeros(2, 2, 3, dtype=torch.float16)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, failing)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_the_leftover_of_a_killed_process_is_removed(tmp_path):
    stored(tmp_path, Source())
    (rows,), (description,) = tmp_path.glob("*.bin"), tmp_path.glob("*.json")
    description.unlink()
    leftover = tmp_path / f".{rows.name}.1.tmp"
    leftover.write_bytes(b"half")
    stored(tmp_path, Source())
    assert not leftover.exists() and description.exists()


def test_what_the_user_can_mend_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data.cache=.*file"):
        stored(tmp_path / "file", Source())

    def full():
        yield torch.zeros(2, 2, 3, dtype=torch.float16)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"the disk is full.*data.cache=<folder>, or set data.cached_views=0"):
        stored(tmp_path, full)
    with pytest.raises(UserError, match="exceed half precision"):
        stored(tmp_path, lambda: iter([torch.full(SHAPE, torch.inf, dtype=torch.float16)]))


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / "meru"
    assert cache_folder(str(tmp_path / "own")) == tmp_path / "own"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "meru"


def test_facts_of_images_follow_their_files(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for path in paths:
        path.write_bytes(b"one")
    before = image_facts(paths)
    assert image_facts(list(paths)) == before != image_facts(paths[::-1])
    paths[0].write_bytes(b"others")
    assert (changed := image_facts(paths)) != before
    os.utime(paths[1], ns=(0, 0))
    assert image_facts(paths) not in (before, changed)
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    before = image_facts(pixels)
    pixels[1, 0, 0, 0] = 1
    assert image_facts(pixels) != before


def test_facts_of_transforms_follow_their_settings():
    different = [
        training_transform(32),
        training_transform(32, flip=False),
        training_transform(32, scale=(0.4, 1.0)),
        training_transform(48),
        EvaluationTransform(32),
        EvaluationTransform(32, squash=True),
        RandomPicks(32, pool=["flip"], picks=1),
        RandomPicks(32, pool=["flip"], picks=2),
        RandomPicks(32, pool=["flip", "crop"], picks=2),
        v2.Compose([EvaluationTransform(32)]),
    ]
    assert len({transform_facts(each) for each in different}) == len(different)
    assert transform_facts(training_transform(32)) == transform_facts(training_transform(32))


def test_views_depend_on_position_and_number_only():
    images = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    data = ViewsOfImages(images, transform=training_transform(8), views=3)
    first = data[1]["image"]
    torch.manual_seed(5)
    assert torch.equal(data[1]["image"], first) and first.shape == (3, 3, 8, 8)
    assert torch.equal(ViewsOfImages(images, transform=training_transform(8), views=2)[1]["image"], first[:2])
    assert not torch.equal(first[0], first[1])


def test_an_image_that_does_not_decode(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"none")
    with pytest.raises(UserError, match=r"a.jpg.*restore it, or set data.cached_views=0"):
        ViewsOfImages([tmp_path / "a.jpg"], transform=training_transform(8), views=2)[0]


def test_every_view_occurs_once_in_as_many_epochs():
    choice, index = ViewChoice(0, images=9, views=4), torch.arange(9)
    drawn = torch.stack([choice.one(epoch, index) for epoch in range(8)])
    for block in drawn.split(4):
        assert torch.equal(block.sort(dim=0).values, torch.arange(4)[:, None].expand(4, 9))
    assert not torch.equal(drawn[:4], drawn[4:])


def test_the_choice_is_a_function_of_seed_epoch_and_index():
    index = torch.tensor([7, 2, 7])
    repeat = torch.tensor([0, 0, 1])
    forward = [(ViewChoice(3, images=9, views=4).one(e, index), ViewChoice(3, images=9, views=4).two(e, index, repeat))
               for e in range(6)]  # fmt: skip
    choice = ViewChoice(3, images=9, views=4)
    for epoch in (5, 0, 3):
        assert torch.equal(choice.two(epoch, index, repeat), forward[epoch][1])
        assert torch.equal(choice.one(epoch, index[1:]), forward[epoch][0][1:])
    two = torch.cat([pair for _, pair in forward])
    assert (two[:, 0] != two[:, 1]).all()
    assert all(not set(pair[0].tolist()) & set(pair[2].tolist()) for _, pair in forward)
    everything = torch.arange(9)
    assert any(not torch.equal(ViewChoice(0, images=9, views=4).one(e, everything),
                               ViewChoice(1, images=9, views=4).one(e, everything)) for e in range(4))  # fmt: skip
