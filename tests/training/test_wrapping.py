"""Compiled towers and towers in pieces give the losses and gradients of plain ones."""

from functools import partial

import pytest
import torch
from test_gpu_training import BATCH, batch_number, build, discovery_batch
from torch import nn

from meru.encoders.packing import PackedLayout
from meru.errors import UserError
from meru.layers import pieces
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.hypgcd import HypGCD
from meru.models.meru import MERU
from meru.models.meru_grid import MERUGrid
from meru.models.meru_patches import MERUPatches
from meru.training import wrapping
from meru.training.arriving import arriving
from meru.training.gradients import TermGradients
from meru.training.precision import fastest_attention
from meru.training.settings import TrainerSettings
from meru.training.wrapping import as_before, check_fit, compile_towers, compiler_errors

CPU = torch.device("cpu")
KINDS = [CLIP, MERU, HyCoCLIP, MERUPatches, MERUGrid, GAHR, HypGCD]


def loss_and_gradients(model, batch):
    torch.manual_seed(1)  # losses with triplets draw them
    model.zero_grad()
    loss = model(batch).loss
    loss.backward()
    named = model.named_parameters()
    return loss.detach(), {name: each.grad.clone() for name, each in named if each.grad is not None}


def assert_alike(one, other, tolerance=1e-5):
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        error = (gradient - other[1][name]).norm() / gradient.norm().clamp_min(1e-6)
        assert error < tolerance, (name, error)


def batch_of(kind):
    return discovery_batch("cpu") if kind is HypGCD else batch_number(0)


@pytest.mark.parametrize("size", [1, 4, BATCH])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_batch_have_its_gradients(kind, size):
    model = build(kind, "cpu")
    whole = loss_and_gradients(model, batch_of(kind))
    model.micro_batch_size = size
    assert_alike(whole, loss_and_gradients(model, batch_of(kind)), 1e-4)


def test_pieces_computed_again_draw_their_dropout_masks_again(monkeypatch):
    model, batch = build(CLIP, "cpu"), batch_number(0)
    model.micro_batch_size = 2
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.5
    cached = loss_and_gradients(model, batch)
    monkeypatch.setattr(pieces, "checkpoint", lambda tower, *given, use_reentrant: tower(*given))  # keeps activations
    kept = loss_and_gradients(model, batch)
    assert_alike(kept, cached)
    model.eval()
    assert not torch.equal(loss_and_gradients(model, batch)[0], kept[0])  # there were masks


def test_batch_norms_refuse_pieces():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    with pytest.raises(UserError, match="trainer.micro_batch_size=2: batch norms"):
        check_fit(Normed(), TrainerSettings(epochs=1, micro_batch_size=2), CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_towers_give_the_loss_and_gradients_of_plain_ones(kind):
    model = build(kind, "cpu")
    plain = loss_and_gradients(model, batch_of(kind))
    names = list(model.state_dict())
    compile_towers(model, backend="aot_eager")
    assert any(module._compiled_call_impl for module in model.visual.modules())
    assert_alike(plain, loss_and_gradients(model, batch_of(kind)))
    assert list(model.state_dict()) == names
    as_before(model)
    assert not any(module._compiled_call_impl for module in model.modules())


def test_terms_of_compiled_towers_can_be_measured(monkeypatch):
    monkeypatch.setattr(wrapping, "compile_towers", partial(compile_towers, backend="aot_eager"))
    model, batch = build(MERU, "cpu"), batch_number(0)
    # torch's default; `monkeypatch` would take the setting away in the end, which other tests need.
    with torch._functorch.config.patch(donated_buffer=True):
        wrapping.wrapped(model, TrainerSettings(epochs=1, compile="towers", diagnose_every=1), CPU)
        torch.manual_seed(1)
        output = model(batch)
        measured = TermGradients(model)
        measured.add(output, share=1.0)
        output.loss.backward()
    assert all(value for name, value in measured.figures().items() if name.endswith("/all"))
    assert torch._functorch.config.donated_buffer


def test_blocks_compile_without_a_graph_break():
    model = build(MERU, "cpu")
    layout = PackedLayout(batch_number(0)["tokens"])
    for block, given in (
        (model.visual.blocks[0], (torch.randn(BATCH, 5, 64),)),
        (model.textual.resblocks[0], (torch.randn(len(layout.index), 64), layout)),
    ):
        assert torch._dynamo.explain(block)(*given).graph_break_count == 0


def test_a_tower_without_blocks_is_refused():
    model = nn.Module()
    model.visual = nn.Linear(2, 2)
    with pytest.raises(UserError, match="trainer.compile: Linear has no blocks"):
        check_fit(model, TrainerSettings(epochs=1, compile="towers"), CPU)
    with pytest.raises(UserError, match="trainer.compile=graphs: CUDA graphs need a GPU"):
        check_fit(build(CLIP, "cpu"), TrainerSettings(epochs=1, compile="graphs"), CPU)


def test_a_failing_compiler_is_one_line():
    def broken(graph, given):
        raise RuntimeError("no compiler\nand more")

    refused = pytest.raises(UserError, match="^trainer.compile: torch.compile failed: .*; set it to false$")
    with refused, compiler_errors():
        torch.compile(nn.Linear(2, 2), backend=broken)(torch.ones(1, 2))
    with pytest.raises(KeyError), compiler_errors():
        raise KeyError


def test_counted_tokens_are_packed_alike_and_without_reading_the_device():
    batch = next(iter(arriving([batch_number(0)], CPU)))
    counted, read = PackedLayout(batch["tokens"], batch["tokens_count"]), PackedLayout(batch["tokens"])
    for name in ("index", "position", "real", "last"):
        assert torch.equal(getattr(counted, name), getattr(read, name)), name
    assert torch.equal(read.index, read.real.flatten().nonzero().squeeze(1))
    assert batch["part_tokens_count"] == batch["tokens_count"] and "query_tokens_count" not in batch
    model = build(MERU, "cpu")
    assert_alike(loss_and_gradients(model, batch_number(0)), loss_and_gradients(model, batch))


@pytest.mark.parametrize("kind", [MERU, HyCoCLIP, GAHR])
def test_tokens_rounded_up_to_few_shapes_change_nothing(kind):
    """Eight real tokens at most in six captions, where 128 tokens and padding stand for none."""
    model = build(kind, "cpu")
    given = {name: value[:, :7] if name.endswith("tokens") and value.dim() == 2 else value
             for name, value in batch_number(0).items()}  # fmt: skip
    rounded = next(iter(arriving([given], CPU, few_shapes=True)))
    assert rounded["tokens"].shape[1] == 8 and rounded["tokens_count"] == 128
    assert_alike(loss_and_gradients(model, given), loss_and_gradients(model, rounded))
    _, words = model.textual.forward_tokens(rounded["tokens"], None, 128)
    assert not words[~PackedLayout(rounded["tokens"]).real].any()


def test_figures_for_the_logs_do_not_touch_the_loss():
    model, batch = build(MERU, "cpu"), batch_number(0)
    with_figures = loss_and_gradients(model, batch)
    assert "radius/image" in model(batch).logs
    model.reports_figures = False
    assert "radius/image" not in model(batch).logs and "loss/contrastive" in model(batch).logs
    assert_alike(with_figures, loss_and_gradients(model, batch), 1e-9)


def test_plain_attention_in_bfloat16_is_near_the_fused_one():
    query, key, value = torch.randn(3, 2, 4, 9, 16, dtype=torch.bfloat16).unbind()
    attend = nn.functional.scaled_dot_product_attention
    fused = attend(query, key, value, is_causal=True)
    with fastest_attention(CPU, bf16=True):
        plain = attend(query, key, value, is_causal=True)
    torch.testing.assert_close(plain, fused, rtol=2e-2, atol=2e-2)
