"""The training loop on a model small enough to see through."""

import errno
import logging
import math
import os
import signal

import pytest
import torch
from torch import nn
from toy_training import PER_EPOCH, SIZE, Killed, Regression, batch_number, folder, lines, make

from meru.errors import UserError
from meru.training import trainer as trainer_module
from meru.training.precision import allow_tf32
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("killed_at", [1, 3, 5, 8, 11])
def test_killed_anywhere_and_resumed_is_bit_identical(tmp_path, killed_at, ema_decay):
    settings = {"checkpoint_every": 1, "ema_decay": ema_decay, "evaluate": lambda m: {"score": -m.scale.item()}}
    straight = make(folder(tmp_path, "straight"), **settings)
    assert straight.run()

    def kill(number):
        if number == killed_at:
            raise Killed

    broken = folder(tmp_path, "broken")
    with pytest.raises(Killed):
        make(broken, on_batch=kill, **settings).run()
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = make(broken, **settings)
    assert resumed.run()
    assert lines(broken) == lines(tmp_path / "straight")
    for name, tensor in straight.evaluated.state_dict().items():
        assert torch.equal(tensor, resumed.evaluated.state_dict()[name]), name
    assert resumed.best == straight.best


def test_every_epoch_says_how_it_went_with_and_without_a_validation_split(tmp_path, capfd):
    make(folder(tmp_path, "with"), evaluate=lambda model: {"score": 0.25}).run()
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("epoch")] == [
        "epoch 1/3  score 25.0 %  best so far", "epoch 2/3  score 25.0 %", "epoch 3/3  score 25.0 %",
    ]  # fmt: skip
    make(folder(tmp_path, "without")).run()
    shown = [line.split("  loss ") for line in capfd.readouterr().out.splitlines() if line.startswith("epoch")]
    losses = [line["loss"] for line in lines(tmp_path / "without")][PER_EPOCH - 1 :: PER_EPOCH]
    assert shown == [[f"epoch {number}/3", f"{loss:.3f}"] for number, loss in enumerate(losses, 1)]


def test_a_half_written_line_of_metrics_is_dropped(tmp_path):
    make(tmp_path, epochs=1, checkpoint_every=1).run()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    make(tmp_path, epochs=2).run()
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))


def test_other_groups_of_parameters_cannot_be_resumed(tmp_path):
    make(tmp_path, epochs=1, checkpoint_every=1).run()
    other = make(tmp_path, epochs=2)
    weight, *rest = other.model.parameters()
    other.optimizer = torch.optim.AdamW([{"params": [weight]}, {"params": rest}])
    with pytest.raises(UserError, match="restore optim.multipliers"):
        other.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(tmp_path, number):
    before = signal.getsignal(number)
    interrupted = make(tmp_path, on_batch=lambda n: signal.raise_signal(number) if n == 2 else None)
    assert not interrupted.run()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == interrupted.step == 3
    assert signal.getsignal(number) is before
    assert make(tmp_path).run()


def test_accumulated_batches_give_the_gradient_of_one_large_batch(tmp_path):
    def halves(number):
        return {"image": batch_number(number // 2)["image"].repeat(2, 1)[(number % 2) * SIZE :][:SIZE]}

    def whole(number):
        return {"image": batch_number(number)["image"].repeat(2, 1)}

    models = []
    for name, batch, accumulate, epochs in (("halves", halves, 2, 2), ("whole", whole, 1, 1)):
        settings = {"accumulate": accumulate, "epochs": epochs, "warmup_epochs": 0}
        models.append(Regression(dropout=0.0))  # two runs would draw different masks
        make(folder(tmp_path, name), batch=batch, model=models[-1], **settings).run()
    torch.testing.assert_close(models[0].layer.weight, models[1].layer.weight)


def test_the_model_is_constrained_after_every_step(tmp_path):
    trainer = make(tmp_path)
    trainer.run()
    assert trainer.model.scale <= 1.0


def test_the_best_figure_on_validation_chooses_the_weights(tmp_path):
    scores = iter([0.2, 0.7, 0.7, 0.1])
    kept = []

    def evaluate(model):
        kept.append(model.layer.weight.detach().clone())
        return {"score": next(scores)}

    trainer = make(tmp_path, epochs=4, evaluate=evaluate)
    trainer.run()
    assert trainer.best == {"figure": 0.7, "step": 2 * PER_EPOCH}
    from safetensors.torch import load_file

    assert torch.equal(load_file(tmp_path / "best.safetensors")["layer.weight"], kept[1])


def test_learning_rate_warms_up_and_falls_along_a_cosine(tmp_path):
    make(tmp_path, warmup_epochs=0.5, final_learning_rate=0.1).run()
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates[:2] == pytest.approx([0.025, 0.05])
    expected = [0.05 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 10)) / 2) for k in range(10)]
    assert rates[2:] == pytest.approx(expected, rel=1e-5)


def test_a_rate_for_each_epoch_is_that_of_cosine_annealing(tmp_path):
    make(tmp_path, epochs=5, warmup_epochs=0, final_learning_rate=0.001, rate_changes="epoch").run()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.05)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5, eta_min=0.05 * 0.001)
    expected = []
    for _ in range(5):
        expected += [optimizer.param_groups[0]["lr"]] * PER_EPOCH
        optimizer.step()
        annealing.step()
    assert [line["learning_rate"] for line in lines(tmp_path)] == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(tmp_path):
    def poisoned(number):
        return {"image": batch_number(number)["image"] * (float("nan") if number == 6 else 1)}

    trainer = make(tmp_path, batch=poisoned)
    with pytest.raises(UserError, match=r"step 6: loss/square is not finite; the last good checkpoint is .*last.pt"):
        trainer.run()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_gradient_that_is_not_finite_names_the_parameter(tmp_path):
    model = Regression()
    model.scale.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match="step 0: the gradient of scale is not finite; no checkpoint was written yet"):
        make(tmp_path, model=model).run()


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    make(tmp_path, epochs=1).run()
    good = (tmp_path / "last.pt").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left on device.*make room and go on with resume="):
        make(tmp_path, epochs=2).run()
    assert (tmp_path / "last.pt").read_bytes() == good
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"not a checkpoint"])
def test_a_broken_checkpoint_is_one_clear_line(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        make(tmp_path).run()


def test_a_foreign_checkpoint_is_one_clear_line(tmp_path):
    torch.save({"model": {}}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        make(tmp_path).run()


def test_a_checkpoint_of_another_architecture_is_one_clear_line(tmp_path):
    make(tmp_path, epochs=1).run()
    other = Regression()
    other.layer = nn.Linear(3, 1)
    with pytest.raises(UserError, match="another architecture"):
        make(tmp_path, model=other).run()


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"format": 1, "step": Trap()}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        make(tmp_path).run()


def test_unknown_monitor_names_the_choices(tmp_path):
    with pytest.raises(UserError, match="trainer.monitor=score: choose one of accuracy"):
        make(tmp_path, evaluate=lambda model: {"accuracy": 0.0}).run()


@pytest.mark.parametrize(
    ("setting", "value"), [("precision", "fp8"), ("rate_changes", "never"), ("accumulate", 0), ("log_every", 0)]
)
def test_unusable_settings_are_one_clear_line(setting, value):
    with pytest.raises(UserError, match=f"trainer.{setting}={value}"):
        TrainerSettings(**{"epochs": 1, setting: value})


def test_an_active_clamp_is_told_once(tmp_path, caplog):
    class Clamped(Regression):
        def forward(self, batch):
            output = super().forward(batch)
            output.logs["clamped/curvature"] = torch.tensor(1.0)
            return output

    logging.getLogger("meru").propagate = True
    make(tmp_path, model=Clamped()).run()
    assert caplog.text.count("clamped/curvature is active") == 1


def test_an_expected_clamp_is_not_told(tmp_path, caplog):
    """One that the model declares, and one of a scalar that is where it started."""

    class Clamped(Regression):
        expected_clamps = frozenset({"clip"})

        def __init__(self):
            super().__init__()
            self.still = nn.Parameter(torch.tensor(4.6), requires_grad=False)

        def forward(self, batch):
            output = super().forward(batch)
            output.logs.update({f"clamped/{name}": torch.tensor(1.0) for name in ("clip", "still", "lift")})
            return output

    logging.getLogger("meru").propagate = True
    make(tmp_path, model=Clamped(), epochs=1).run()
    assert caplog.text.count("is active") == caplog.text.count("clamped/lift is active") == 1


def test_precision_bf16_autocasts_the_forward_pass(tmp_path):
    seen = []

    class Watched(Regression):
        def forward(self, batch):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().forward(batch)

    make(tmp_path, model=Watched(), epochs=1, precision="bf16").run()
    make(folder(tmp_path, "fp32"), model=Watched(), epochs=1, precision="fp32").run()
    assert seen == [True] * PER_EPOCH + [False] * PER_EPOCH


def test_only_the_forward_pass_is_autocast(tmp_path):
    seen = {}

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            seen["backward"] = torch.is_autocast_enabled("cpu")
            return gradient

    class Model(Regression):
        def forward(self, batch):
            return super().forward({"image": Watched.apply(batch["image"] * self.scale)})

    def evaluate(model):
        seen["validation"] = torch.is_autocast_enabled("cpu")
        return {"score": 0.0}

    make(tmp_path, model=Model(), epochs=1, precision="bf16", evaluate=evaluate).run()
    assert seen == {"backward": False, "validation": False}


@pytest.mark.parametrize("real", [True, False])
def test_auto_is_bf16_only_where_the_card_has_it(real, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    options = {name: None for name in ("batches", "evaluate", "logger")}
    model = Regression()
    trainer = Trainer(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        batches_per_epoch=1,
        folder=tmp_path,
        device=torch.device("cuda"),
        settings=TrainerSettings(epochs=1),
        **options,
    )
    assert trainer.bf16 == real


def test_tf32_is_allowed_by_key_and_on_a_gpu_only():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for allowed in (True, False):
            allow_tf32(allowed, device=torch.device("cuda"))
            assert [backend.allow_tf32 for backend in backends] == [allowed] * 2
            allow_tf32(not allowed, device=torch.device("cpu"))
            assert [backend.allow_tf32 for backend in backends] == [allowed] * 2
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_parameter_without_gradient_is_left_alone(tmp_path, ema_decay):
    model = Regression()
    model.idle = nn.Parameter(torch.ones(()))
    assert make(tmp_path, model=model, epochs=1, ema_decay=ema_decay).run()
    assert model.idle == 1


def test_compiled_model_trains(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(trainer_module.torch, "compile", lambda model: compiled.append(model) or model)
    trainer = make(tmp_path, epochs=1, compile=True)
    assert trainer.run() and compiled == [trainer.model]
