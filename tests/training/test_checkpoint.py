"""Files of a run folder that were damaged, or are of another run than the one that goes on."""

import json
import math
import os
import random
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file
from toy_training import PER_EPOCH, Regression, lines, make

from meru.encoders.weights import read_weights
from meru.errors import UserError
from meru.training.checkpoint import load_checkpoint, restore_random_states, save_checkpoint, save_weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    make(folder, epochs=2).run()
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def values_of(state):
    """Every number of a nested state, to compare two of them."""
    if isinstance(state, dict):
        return {key: values_of(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [values_of(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state


@pytest.mark.parametrize("damage", ["bit", "zeros"])
def test_damage_of_a_checkpoint_is_found_or_does_no_harm(copied, damage):
    """Of 150 places some lie in the padding between two tensors: then the state is as it was saved."""
    path = copied / "last.pt"
    content, good = path.read_bytes(), values_of(load_checkpoint(path))
    places, found = random.Random(0), 0
    for _ in range(150):
        spoilt, place = bytearray(content), places.randrange(len(content))
        if damage == "bit":
            spoilt[place] ^= 1 << places.randrange(8)
        else:
            spoilt[place : place + 64] = bytes(len(spoilt[place : place + 64]))
        path.write_bytes(spoilt)
        try:
            assert values_of(load_checkpoint(path)) == good
        except UserError as error:
            assert str(path) in str(error)
            found += 1
    assert found > 60


def test_damage_of_weights_is_found(tmp_path):
    path = tmp_path / "model.safetensors"
    weights = {"a": torch.randn(40, 3), "b": torch.arange(7), "half": torch.ones(5, dtype=torch.bfloat16)}
    save_weights(path, {**weights, "none": torch.empty(0), "scalar": torch.tensor(2.0)})
    content = path.read_bytes()
    assert all(torch.equal(read_weights(path, what="run")[name], value) for name, value in weights.items())
    good = values_of(read_weights(path, what="run"))
    header = 8 + int.from_bytes(content[:8], "little")
    for place in range(0, len(content), 7):
        spoilt = bytearray(content)
        spoilt[place] ^= 4
        path.write_bytes(spoilt)
        try:
            read = read_weights(path, what="run")
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert place < header and values_of(read) == good  # the header has words that mean nothing to the tensors


def test_weights_of_other_programs_have_no_checksum_and_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "theirs.safetensors")
    assert read_weights(tmp_path / "theirs.safetensors", what="run")["a"].tolist() == [1, 1]


def test_files_follow_the_umask(trained, tmp_path):
    before = os.umask(0o027)
    try:
        save_weights(tmp_path / "model.safetensors", {"a": torch.ones(2)})
        save_checkpoint(tmp_path / "last.pt", {"step": 1})
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o640, 0o640]
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("lacking", ["step", "model", "optimizer", "random_states"])
def test_a_checkpoint_that_lacks_something_is_named(copied, lacking):
    state = load_checkpoint(copied / "last.pt")
    del state[lacking]
    torch.save(state, copied / "last.pt")
    with pytest.raises(UserError, match=rf"last\.pt is incomplete \(no {lacking}\)"):
        make(copied, epochs=3).run()


def test_a_checkpoint_of_another_optimizer_is_refused(copied):
    trainer = make(copied, epochs=3)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match="this run began with AdamW, not SGD"):
        trainer.run()
    state = load_checkpoint(copied / "last.pt")
    del state["optimizer_class"]  # as of an older version
    torch.save(state, copied / "last.pt")
    trainer = make(copied, epochs=3)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(UserError, match="began with an optimizer without momentum"):
        trainer.run()


def test_what_is_configured_for_the_optimizer_acts_on_a_resumed_run(copied):
    trainer = make(copied, epochs=3)
    for group in trainer.optimizer.param_groups:
        group["weight_decay"] = 0.123
    trainer.run()
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.123}
    assert trainer.optimizer.state_dict()["state"][0]["step"] == 3 * PER_EPOCH  # its moments were taken up


def test_an_epoch_of_another_length_is_refused(copied):
    trainer = make(copied, epochs=3)
    trainer.steps_per_epoch = 3
    with pytest.raises(UserError, match="began with 1 process and 4 steps per epoch; 1 process would make 3"):
        trainer.run()


def test_fewer_epochs_than_the_run_has_behind_it_are_refused(copied):
    with pytest.raises(UserError, match=r"epochs=1 ends at step 4, and this run is at step 8.*at least 2 epochs"):
        make(copied, epochs=1).run()
    assert load_checkpoint(copied / "last.pt")["step"] == 8


def test_a_checkpoint_of_an_older_version_goes_on(copied):
    state = load_checkpoint(copied / "last.pt")
    for name in ("steps_per_epoch", "epochs", "processes", "epoch_state", "optimizer_class"):
        del state[name]
    torch.save(state, copied / "last.pt")
    assert make(copied, epochs=3).run()


def test_weights_that_are_not_finite_are_never_the_last_checkpoint(tmp_path):
    """A step may spoil the weights although loss and gradient were finite."""

    class Spoilt(Regression):
        def constrain_(self):
            with torch.no_grad():
                self.layer.bias.fill_(math.inf if trainer.step == PER_EPOCH + 2 else 0.0)

    trainer = make(tmp_path, model=Spoilt(), epochs=2, checkpoint_every=1)
    with pytest.raises(UserError, match=r"the weight layer\.bias is not finite; the last good checkpoint is "):
        trainer.run()
    state = load_checkpoint(tmp_path / "last.pt")
    assert state["step"] == PER_EPOCH + 2 and all(value.isfinite().all() for value in state["model"].values())


def test_weights_that_are_not_finite_are_said_to_be_the_cause(tmp_path):
    model = Regression()
    with torch.no_grad():
        model.layer.weight[0, 0] = math.nan
    with pytest.raises(UserError, match=r"step 0: the weight layer\.weight is not finite; no checkpoint was writ"):
        make(tmp_path, model=model).run()


def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(copied):
    state = load_checkpoint(copied / "last.pt")
    state["model"]["scale"] = torch.tensor(math.nan)
    torch.save(state, copied / "last.pt")
    with pytest.raises(UserError, match=r"the weight scale in .*last\.pt is not finite"):
        make(copied, epochs=3).run()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x00\xff\xfe binary", "is not a text file"),
        (b'{"step": 1, "loss": 2}\nhalf a line\n{"step": 2}\n', "line 2 has no figures of a step"),
        (b"[1, 2]\n", "line 1 has no figures of a step"),
        (b'{"step": "four"}\n', "line 1 has no figures of a step"),
        (b"[" * 5000 + b"\n", "line 1 has no figures of a step"),
        (b"words without an end", "line 1 has no figures of a step"),
    ],
)
def test_a_broken_file_of_metrics_is_named(copied, content, what):
    (copied / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"metrics\.jsonl.*{what}"):
        make(copied, epochs=3).run()
    assert (copied / "metrics.jsonl").read_bytes() == content  # nothing of it is lost


def test_an_epochs_state_is_taken_up_where_a_run_resumes_within_one(tmp_path):
    """What is found at an epoch's start, such as neighbours, must not be found again by later weights."""

    def run(folder, stop_at=None):
        trainer = make(folder, epochs=3)
        numbers = trainer.batches

        def batches(start):
            for number, batch in enumerate(numbers(start), start=start):
                epoch = number // PER_EPOCH
                if trainer.epoch_state.get("epoch") != epoch:
                    trainer.epoch_state.update(epoch=epoch, found=trainer.model.layer.weight.detach().clone())
                trainer.stop_requested = number == stop_at
                yield {"image": batch["image"] + trainer.epoch_state["found"]}

        trainer.batches = batches
        finished = trainer.run()
        return finished, trainer.model.state_dict()

    (tmp_path / "straight").mkdir()
    (tmp_path / "stopped").mkdir()
    _, straight = run(tmp_path / "straight")
    finished, _ = run(tmp_path / "stopped", stop_at=PER_EPOCH + 1)
    assert not finished
    finished, resumed = run(tmp_path / "stopped")
    assert finished and all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert lines(tmp_path / "straight") == lines(tmp_path / "stopped")


def test_a_process_that_was_not_there_before_draws_as_the_others(monkeypatch):
    torch.manual_seed(3)
    states = [{"cpu": torch.get_rng_state()}]
    wanted = torch.rand(3)
    monkeypatch.setattr("meru.distributed.rank", lambda: 1)
    torch.manual_seed(8)
    own = torch.rand(3)
    torch.manual_seed(8)
    restore_random_states(states, alike=False)  # with dropout every process has masks of its own
    assert torch.equal(torch.rand(3), own)
    restore_random_states(states, alike=True)
    assert torch.equal(torch.rand(3), wanted)


def test_metrics_of_a_run_are_one_object_a_line(trained):
    assert [json.loads(line)["step"] for line in (trained / "metrics.jsonl").read_text().splitlines()] == [*range(1, 9)]
