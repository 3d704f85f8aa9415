"""Training on a GPU: the same bodies run on the CPU, where NCCL is gloo and the compiler is its interpreter."""

from __future__ import annotations

import os
import socket
from pathlib import Path

# Read when CUDA's matrix library starts, without which it has no deterministic products.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
import torch.distributed as dist
from every_term import EVERY_TERM
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from meru import distributed
from meru.encoders.image import timm_image_encoder
from meru.encoders.text import text_transformer
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.hypgcd import HypGCD
from meru.models.hypgcd_released import HypGCDReleased
from meru.models.meru import MERU
from meru.models.meru_grid import MERUGrid
from meru.models.meru_patches import MERUPatches
from meru.models.simgcd import SimGCD
from meru.training.loggers.base import NoLogger
from meru.training.settings import TrainerSettings
from meru.training.trainer import Trainer

BATCH = 6
CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])

DISCOVERY = {
    "supervised_contrastive": {"weight": 0.35, "temperature": 0.07},
    "supervised_classification": {"weight": 0.35},
    "view_contrastive": {"weight": 0.65, "temperature": 1.0},
    "self_distillation": {"weight": 0.65, "entropy": 2.0, "start": 0.07, "end": 0.04, "epochs": 30},
    "category": {"weight": 0.5, "temperature": 1.0, "smoothing": 0.1},
    "hierarchy": {
        "weight": 0.5, "neighbours": 4, "triplets": 5, "margin": 0.1, "ancestors": "batch", "temperature": 0.1,
        "exclude_members": False, "proxies": 8,
    },
}  # fmt: skip


def image_tower():
    arguments = {"patch_size": 16, "embed_dim": 64, "depth": 1, "num_heads": 2}
    return timm_image_encoder(name="vit_tiny_patch16_224", image_size=32, arguments=arguments)


def build(kind, device):
    torch.manual_seed(0)
    if issubclass(kind, SimGCD):
        sizes = {"projection_width": 32, "projection_dimension": 16}
        model = kind(image=image_tower(), num_classes=5, loss=DISCOVERY, **sizes)
    else:
        text = text_transformer(architecture="L2_W64_A2", context_length=8)
        model = kind(image=image_tower(), text=text, embedding_dimension=16, loss=EVERY_TERM)
    return model.to(device).train()


def batch_number(number, device="cpu"):
    """Everything that a model may ask for; captions differ in length."""
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(1, 1000, (BATCH, 8), generator=generator)
    ends = torch.randint(2, 8, (BATCH,), generator=generator)
    tokens[torch.arange(BATCH), ends] = 49407
    batch = {
        "image": torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "tokens": tokens,
        "image_index": torch.arange(BATCH),
        "class_index": torch.tensor([0, 1, 1, 0, 1, 2]),
        "part_image": torch.randint(0, 256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
        "part_tokens": tokens.flip(0),
        "has_part": torch.tensor([True, False, False, True, True, True]),
        "has_part_text": torch.tensor([False, True, False, True, False, True]),
        "query_tokens": tokens[:, None],
        "query_weight": torch.tensor([[1.0], [0.0], [0.5], [0.75], [0.0], [1.0]]),
        "query_parent": torch.full((BATCH, 1), -1),
        "epoch": torch.tensor(1.0),
    }
    return {name: value.to(device) for name, value in batch.items()}


def discovery_batch(device):
    batch = batch_number(0, device)
    views = torch.stack([batch["image"], batch["part_image"]], dim=1)
    return {"image": views, "label": batch["class_index"], "labelled": batch["has_part"], "epoch": batch["epoch"]}


@on_every_device
@pytest.mark.parametrize("kind", [CLIP, MERU, HyCoCLIP, MERUPatches, MERUGrid, GAHR, SimGCD, HypGCD, HypGCDReleased])
def test_a_step_in_bf16_is_finite(kind, device):
    model = build(kind, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = discovery_batch(device) if issubclass(kind, SimGCD) else batch_number(0, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        output = model(batch)
    output.loss.backward()
    optimizer.step()
    model.constrain_()
    assert output.loss.isfinite()
    assert {value.device.type for value in [output.loss, *output.logs.values()]} == {device}
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# ---------------------------------------------------------------- resuming


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def trainer(folder, device, *, killed_at=None, kind=MERU):
    def batches(start):
        for number in range(start, 1000):
            if number == killed_at:
                raise Killed
            yield batch_number(number)

    folder.mkdir(exist_ok=True)
    model = build(kind, device)
    return Trainer(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True),
        batches=batches,
        batches_per_epoch=3,
        evaluate=None,
        logger=NoLogger(),
        folder=folder,
        device=torch.device(device),
        settings=TrainerSettings(epochs=2, checkpoint_every=1, ema_decay=0.9),
    )


@on_every_device
def test_killed_and_resumed_is_bit_identical(tmp_path: Path, device, deterministic):
    straight = trainer(tmp_path / "straight", device)
    assert straight.run()
    with pytest.raises(Killed):
        trainer(tmp_path / "broken", device, killed_at=4).run()
    torch.manual_seed(99)  # whatever the new process has drawn before
    resumed = trainer(tmp_path / "broken", device)
    assert resumed.run()
    for name, tensor in straight.evaluated.state_dict().items():
        assert torch.equal(tensor, resumed.evaluated.state_dict()[name]), name


# ---------------------------------------------------------------- running ahead


@on_every_device
@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_steps_never_wait_for_the_device(tmp_path, kind, device):
    """With pinned batches, as from the loader; on the CPU, where nothing can wait, only the answers are tested."""
    running = trainer(tmp_path, device, kind=kind)
    pinned = ({name: value.pin_memory() if device == "cuda" else value for name, value in batch_number(number).items()}
              for number in range(100))  # fmt: skip
    stream, forward = running._on_device(pinned), running.model.train()
    for _ in range(3):  # allocates the optimizer's state
        running._step(forward, stream)
        assert not running._stop_due(now=False)
    before = running.model.visual_proj.weight.clone()
    mode = torch.cuda.get_sync_debug_mode() if device == "cuda" else None
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        for _ in range(2):
            running._step(forward, stream)
            running._stop_due(now=False)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode(mode)
    assert running.step == 5 and not running._stop_due(now=True)
    assert not torch.equal(running.model.visual_proj.weight, before)


# ---------------------------------------------------------------- processes


@pytest.fixture
def group(device, monkeypatch):
    """A process group of one, as torchrun would describe it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    described = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in described.items():
        monkeypatch.setenv(name, str(value))
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield distributed.start()
    distributed.stop()


@on_every_device
def test_a_group_of_one_process_steps_and_gathers(device, group):
    assert group.type == device
    assert dist.get_backend() == ("nccl" if device == "cuda" else "gloo")
    alone, batch = build(MERU, group), batch_number(0, group)
    alone(batch).loss.backward()
    model = build(MERU, group)
    parallel = DistributedDataParallel(model, device_ids=[group.index] if device == "cuda" else None)
    parallel(batch).loss.backward()
    for (name, one), other in zip(alone.named_parameters(), model.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=lambda text, name=name: name + text)

    x = torch.arange(6.0, device=group).view(3, 2).requires_grad_()
    gathered = distributed._Gather.apply(x)  # `gather` leaves a single process alone
    gathered.square().sum().backward()
    assert torch.equal(gathered, x) and torch.equal(x.grad, 2 * x)
    objects = [None]
    dist.all_gather_object(objects, {"rank": 0})
    dist.barrier()
    assert objects == [{"rank": 0}]


# ---------------------------------------------------------------- compiling


@pytest.mark.parametrize(
    ("device", "kind", "backend"),
    [
        ("cpu", CLIP, "eager"),
        pytest.param("cuda", MERU, "inductor", marks=CUDA),  # has all that CLIP has; compiling takes a minute or more
    ],
)
def test_compiled_gives_the_loss_and_gradients_of_eager(device, kind, backend):
    def run(forward, model):
        losses = [forward(batch_number(number, device)).loss for number in (0, 1)]  # captions of other lengths
        sum(losses).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return [loss.detach() for loss in losses], gradients

    model, other = build(kind, device), build(kind, device)
    losses, gradients = run(model, model)
    compiled: nn.Module = torch.compile(other, backend=backend)
    found, found_gradients = run(compiled, other)
    torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5)
    assert found_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        scale = gradient.norm() + 1e-6
        assert (found_gradients[name] - gradient).norm() <= 1e-2 * scale, name
