"""The robust exponent as a key of the models: what it changes, that 0 changes nothing, and where it is refused."""

import pytest
import torch
from every_term import EVERY_TERM
from test_terms import batch, build  # noqa: F401 (a fixture)

from meru.errors import UserError
from meru.models.clip import CLIP
from meru.models.gahr import GAHR
from meru.models.hycoclip import HyCoCLIP
from meru.models.large_batches import goes_by_tiles
from meru.models.meru import MERU
from meru.models.uncha import UNCHA

TERM = {
    CLIP: "contrastive",
    MERU: "contrastive",
    HyCoCLIP: "contrastive",
    UNCHA: "contrastive",
    GAHR: "semantic_margin",
}


def losses(kind, batch, **settings):  # noqa: F811
    """Loss, and the value of the term by itself, with other settings of the term."""
    term = TERM[kind]
    model = build(kind)
    model.loss = {**model.loss, "semantic_margin": {"weight": 0.0, **EVERY_TERM["semantic_margin"]}}
    model.loss = {**model.loss, term: {**model.loss[term], "weight": 1.0, **settings}}
    output = model(batch)
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return output.loss.detach(), output.terms[term].detach(), model


@pytest.mark.parametrize("kind", TERM)
def test_exponent_0_is_the_loss_without_one_to_the_bit_and_others_bound_it(kind, batch):  # noqa: F811
    without, _, _ = losses(kind, batch)
    zero, plain, _ = losses(kind, batch, robust_exponent=0.0)
    robust, term, _ = losses(kind, batch, robust_exponent=0.9)
    assert torch.equal(without, zero)
    contrasts = 3 if kind is UNCHA else 1
    assert term < plain and term <= contrasts / 0.9 and robust != zero


@pytest.mark.parametrize("kind", [CLIP, MERU, GAHR])
def test_a_robust_term_holds_its_whole_matrix_and_other_terms_go_by_tiles(kind, batch):  # noqa: F811
    _, whole, model = losses(kind, batch, robust_exponent=0.4)
    model.tiled_from = 0
    term = TERM[kind]
    other = "contrastive" if term == "semantic_margin" else "semantic_margin"
    assert not goes_by_tiles(model, 4, term=term) and goes_by_tiles(model, 4, term=other)
    assert torch.equal(model(batch).terms[term].detach(), whole)


def test_the_sigmoid_contrast_has_no_robust_form():
    with pytest.raises(UserError, match=r"^loss.contrastive.robust_exponent=0.4: kind=sigmoid judges every pair"):
        build(CLIP, {"contrastive": {"kind": "sigmoid", "bias": -10.0, "robust_exponent": 0.4}})


@pytest.mark.parametrize("kind", TERM)
def test_the_exponent_grows_from_0_in_the_first_epochs(kind, batch):  # noqa: F811
    def at(epoch, **settings):
        given = batch if epoch is None else {**batch, "epoch": torch.tensor(float(epoch))}
        return losses(kind, given, soft_label_epochs=1e-9, **settings)[1]

    plain, robust = at(None), at(None, robust_exponent=0.6)
    ramp = {"robust_exponent": 0.6, "robust_epochs": 3.0}
    torch.testing.assert_close(at(0, **ramp), at(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(at(3, **ramp), at(9, **ramp)) and robust < at(1, **ramp) < plain
    assert torch.equal(at(None, **ramp), robust)  # without a known epoch, the final value
