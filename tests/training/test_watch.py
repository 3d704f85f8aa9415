"""Steps that are not finite never change a weight, also where their answer is read a step late."""

import pytest
import torch
from torch import nn
from toy_training import PER_EPOCH, Regression, batch_number, make

from meru.errors import UserError
from meru.training.watch import StepWatch, gradient_norms, skips_updates


def spoilt_from(number, value=torch.nan):
    """Batches whose images are not finite from one on."""

    def batch(own):
        given = batch_number(own)
        return given if own < number else {"image": given["image"] * value}

    return batch


def trained(folder, *, late, fused=True, **settings):
    folder.mkdir()
    trainer = make(folder, log_every=100, **settings)
    trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=0.05, fused=fused)
    trainer.watch = StepWatch(optimizer=trainer.optimizer, device=trainer.device, late=late)
    return trainer


@pytest.mark.parametrize("spoilt", [0, 1, 5, PER_EPOCH - 1, 3 * PER_EPOCH - 1])
@pytest.mark.parametrize("late", [False, True])
def test_the_first_step_that_is_not_finite_is_named_and_leaves_the_weights_alone(tmp_path, late, spoilt):
    good = trained(tmp_path / "good", late=late)
    good.total_steps = spoilt
    if spoilt:
        good.run()
    bad = trained(tmp_path / "bad", late=late, batch=spoilt_from(spoilt))
    bad.total_steps = max(spoilt, 1)  # the same learning rates
    bad.settings = bad.settings.__class__(**{**vars(bad.settings), "epochs": 1000})
    with pytest.raises(UserError, match=rf"^step {spoilt}: loss/square is not finite"):
        run_beyond(bad, spoilt + 3)
    for name, weight in good.model.state_dict().items():
        assert torch.equal(weight, bad.model.state_dict()[name]), name


def run_beyond(trainer, steps):
    """Run further than the learning rates are planned for, so that a late answer has steps to come in."""
    stream, step = trainer._on_device(trainer.batches(0)), trainer._step
    for _ in range(steps):
        step(trainer.model.train(), stream)
        trainer._stop_due(now=False)
    trainer._stop_due(now=True)


@pytest.mark.parametrize("late", [False, True])
def test_a_step_that_is_not_finite_is_not_saved_because_a_signal_came_with_it(tmp_path, late):
    trainer = trained(tmp_path / "run", late=late, batch=spoilt_from(2))
    trainer.batches = interrupted(trainer.batches, trainer, at=2)
    with pytest.raises(UserError, match="^step 2: loss/square is not finite"):
        trainer.run()
    assert not (tmp_path / "run" / "last.pt").exists()


def interrupted(batches, trainer, *, at):
    def with_signal(start):
        for number, batch in enumerate(batches(start)):
            trainer.stop_requested |= number == at
            yield batch

    return with_signal


@pytest.mark.parametrize("late", [False, True])
def test_gradients_of_a_step_that_is_not_finite_are_not_written(tmp_path, late):
    trainer = trained(tmp_path / "run", late=late, batch=spoilt_from(3), diagnose_every=1)
    with pytest.raises(UserError, match="^step 3: "):
        trainer.run()
    assert "NaN" not in (tmp_path / "run" / "diagnosis.jsonl").read_text("utf-8")


def test_a_late_answer_comes_one_step_later_and_at_once_if_asked(tmp_path):
    optimizer = torch.optim.SGD(Regression().parameters(), lr=0.1)
    watch = StepWatch(optimizer=optimizer, device=torch.device("cpu"), late=True)
    fine, bad = torch.tensor(1.0), torch.tensor(torch.inf)
    watch.note(7, stop=False, figures={"loss": fine, "gradient_norm": fine, "loss/a": fine}, gradients={"w": fine})
    watch.note(8, stop=True, figures={"loss": fine, "gradient_norm": bad, "loss/a": fine}, gradients={"w": bad})
    first = watch.verdict(now=False)
    assert (first.failed, first.stop) == (None, False)
    watch.note(9, stop=False, figures={"loss": bad, "gradient_norm": bad, "loss/a": bad}, gradients={"w": fine})
    verdict = watch.verdict(now=True)
    assert (verdict.failed, verdict.stop, verdict.causes) == (8, True, ["the gradient of w"])


def test_only_fused_optimizers_skip_updates_by_themselves():
    parameters = list(Regression().parameters())
    assert skips_updates(torch.optim.AdamW(parameters, fused=True))
    assert not skips_updates(torch.optim.AdamW(parameters))
    assert not skips_updates(torch.optim.RMSprop(parameters))


def test_norms_of_gradients_are_those_of_each_parameter():
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    model.bias.grad = None
    norms = gradient_norms(model)
    assert list(norms) == ["weight"] and torch.equal(norms["weight"], model.weight.grad.norm())
