"""How far scalars moved: in the metrics of every step, in the table at the end, and again after a resume."""

import logging
import math

import pytest
import torch
from torch import nn
from toy_training import Killed, Regression, folder, lines, make

from meru.models import Output
from meru.training.optimizer import build_optimizer
from meru.training.scalars import ScalarMovement
from meru.training.trainer import Trainer


@pytest.fixture(autouse=True)
def told(caplog, monkeypatch):
    """What is logged reaches `caplog`, whatever a test before has set."""
    monkeypatch.setattr(logging.getLogger("meru"), "propagate", True)
    caplog.set_level(logging.INFO, logger="meru")


class Scaled(Regression):
    """With two more scalars, the gradient of one of which always points the same way."""

    log_scalars = {"pushed": "pressure"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.pushed = nn.Parameter(torch.tensor(2.0))
        self.fixed = nn.Parameter(torch.tensor(5.0), requires_grad=False)

    def forward(self, batch):
        output = super().forward(batch)
        return Output(loss=output.loss - 0.01 * self.pushed, logs=output.logs)


def train(path, *, multipliers=None, optimizer=torch.optim.AdamW, learning_rate=0.01, **arguments) -> Trainer:
    trainer = make(path, model=Scaled(), warmup_epochs=0.5, **arguments)
    groups = {"learning_rate": learning_rate, "weight_decay": 0.0, "multipliers": multipliers}
    return Trainer(
        model=trainer.model,
        optimizer=build_optimizer(trainer.model, optimizer, **groups),
        **{name: getattr(trainer, name) for name in ("batches", "batches_per_epoch", "evaluate", "logger")},
        **{name: getattr(trainer, name) for name in ("folder", "device", "settings")},
    )


def test_every_line_says_how_far_each_scalar_moved_and_could_have(tmp_path):
    trainer = train(tmp_path, multipliers={"scalars": 3.0, "scale": 0.0}, clip_gradient_norm=None)
    assert trainer.run()
    written = lines(tmp_path)
    assert {name for name in written[0] if name.startswith("moved")} == {
        "moved/scale", "moved_share/scale", "moved/pushed", "moved_share/pushed",
    }  # fmt: skip
    allowed = 0.0
    for line in written:
        allowed += 3 * line["learning_rate"]  # which is the rate without a factor
        assert line["moved_share/pushed"] == pytest.approx(line["moved/pushed"] / allowed)
        assert line["moved_share/pushed"] == pytest.approx(1.0, abs=1e-3)  # Adam's steps all have one direction
        assert line["moved/scale"] == line["moved_share/scale"] == 0
    assert written[-1]["moved/pushed"] == pytest.approx(trainer.model.pushed.item() - 2.0)
    assert max(line["learning_rate"] for line in written) == pytest.approx(0.01)


def test_the_table_at_the_end_says_what_was_bound(tmp_path, caplog):
    trainer = train(tmp_path, clip_gradient_norm=None)
    assert trainer.run()
    rows = {words[0]: words[1:] for words in map(str.split, caplog.text.splitlines()) if words}
    end = trainer.model.pushed.item()
    assert rows["pressure"] == [f"{math.exp(2.0):.4g}", f"{math.exp(end):.4g}", "100%"]  # a logarithm under its name
    assert rows["scale"][0] == "1" and "fixed" not in rows
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    # Whether `scale`, too, is named depends on random numbers, which differ by version of torch.
    named, _, rest = warning.partition(" moved by more than 90 %")
    assert "pressure" in named.split(", ") and "optim.multipliers.scalars" in rest


def test_no_rate_binds_an_optimizer_whose_steps_are_the_gradients(tmp_path, caplog):
    train(tmp_path, optimizer=torch.optim.SGD, clip_gradient_norm=None, epochs=1).run()
    assert "pressure" in caplog.text and "moved by more" not in caplog.text


def test_a_rate_of_zero_is_no_division_by_zero(tmp_path):
    assert train(tmp_path, learning_rate=0.0, epochs=1).run()
    assert lines(tmp_path)[-1]["moved_share/pushed"] == 0


def test_a_resumed_run_says_the_same(tmp_path, caplog):
    def kill(number):
        if number == 7:
            raise Killed

    straight, broken = folder(tmp_path, "straight"), folder(tmp_path, "broken")
    train(straight).run()
    (table,) = [message for message in caplog.messages if message.startswith("scalar ")]
    caplog.clear()
    with pytest.raises(Killed):
        train(broken, checkpoint_every=1, on_batch=kill).run()
    train(broken, checkpoint_every=1).run()
    assert table in caplog.messages
    assert lines(broken) == lines(straight)


def test_a_run_begun_by_an_older_version_goes_on_and_says_nothing_of_its_start(tmp_path, caplog):
    train(tmp_path, epochs=1, checkpoint_every=1).run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    del state["scalars"]
    torch.save(state, tmp_path / "last.pt")
    caplog.clear()
    assert train(tmp_path, epochs=2).run()
    assert not any(name.startswith("moved") for name in lines(tmp_path)[-1])
    assert "pressure" not in caplog.text


def test_nothing_is_said_of_a_model_without_scalars(caplog):
    model = nn.Linear(2, 2)
    movement = ScalarMovement(model, torch.optim.AdamW(model.parameters()))
    movement.count_step()
    movement.report()
    assert movement.figures() == {} and not caplog.records
