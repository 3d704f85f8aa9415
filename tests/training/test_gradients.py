"""Gradients of single terms: right, and without a trace in the training."""

import json
import math

import pytest
import torch
from process_groups import results_of
from torch import nn
from toy_training import Regression, batch_number, folder, lines, make

from meru.assemble import build
from meru.errors import UserError
from meru.models import Output
from meru.training.gradients import TermGradients, group_of
from meru.training.settings import TrainerSettings


class TwoTerms(Regression):
    """The regression with a second term that moves only the scale, and one without gradient."""

    def forward(self, batch):
        first = super().forward(batch).loss
        terms = {"fit": 2.0 * first, "scale": 0.5 * (self.scale - 3).square(), "constant": torch.tensor(1.5)}
        return Output(loss=sum(terms.values()), terms=terms)


def measured(path):
    return [json.loads(line) for line in (path / "diagnosis.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_measuring_leaves_no_trace_in_the_training(tmp_path, accumulate, ema_decay):
    trained = {}
    for every in (0, 2):
        model = TwoTerms()
        path = folder(tmp_path, str(every))
        make(path, model=model, accumulate=accumulate, ema_decay=ema_decay, diagnose_every=every).run()
        trained[every] = model.state_dict()
    assert all(torch.equal(value, trained[2][name]) for name, value in trained[0].items())
    assert lines(tmp_path / "0") == lines(tmp_path / "2")
    assert not (tmp_path / "0" / "diagnosis.jsonl").exists()
    steps = 12 // accumulate
    assert [line["step"] for line in measured(tmp_path / "2")] == list(range(1, steps + 1, 2))


def by_hand(model, batches):
    """Gradients of the terms of `TwoTerms`, one parameter and one batch at a time."""
    gradients = {}
    for term in ("fit", "scale"):
        for name, parameter in model.named_parameters():
            total = torch.zeros_like(parameter)
            for batch in batches:
                value = model(batch).terms[term]
                (found,) = torch.autograd.grad(value, [parameter], allow_unused=True)
                total += (0 if found is None else found) / len(batches)
            gradients[term, name] = total
    return gradients


def test_norms_and_cosines_are_those_of_a_loop(tmp_path):
    model = TwoTerms(dropout=0.0)
    gradients = by_hand(model, [batch_number(0), batch_number(1)])
    make(tmp_path, model=model, accumulate=2, epochs=1, diagnose_every=100).run()
    (line,) = measured(tmp_path)
    assert line["step"] == 1 and line["weighted/constant"] == 1.5
    names = ("scale", "layer.weight", "layer.bias")
    flat = {term: torch.cat([gradients[term, name].flatten() for name in names]) for term in ("fit", "scale")}
    total = flat["fit"] + flat["scale"]
    for term, vector in flat.items():
        assert line[f"gradient_norm/{term}/all"] == pytest.approx(vector.norm().item(), rel=1e-5)
        assert line[f"gradient_norm/{term}/scalars"] == pytest.approx(abs(vector[0].item()), rel=1e-5)
        assert line[f"gradient_norm/{term}/layer"] == pytest.approx(vector[1:].norm().item(), rel=1e-5, abs=1e-12)
        cosine = torch.cosine_similarity(vector, total, dim=0).item()
        assert line[f"cosine_to_total/{term}"] == pytest.approx(cosine, abs=1e-5)
    assert line["gradient_norm/constant/all"] == 0 and line["cosine_to_total/constant"] is None


def test_a_model_without_terms_gives_the_gradient_of_its_loss(tmp_path):
    make(tmp_path, epochs=1, diagnose_every=4, clip_gradient_norm=None).run()
    (line,) = measured(tmp_path)
    assert line["gradient_norm/loss/all"] == pytest.approx(lines(tmp_path)[0]["gradient_norm"], rel=1e-5)
    assert line["cosine_to_total/loss"] == pytest.approx(1)


def test_a_resumed_run_goes_on_with_its_file(tmp_path):
    make(tmp_path, epochs=1, checkpoint_every=1, diagnose_every=1).run()
    make(tmp_path, epochs=2, diagnose_every=3).run()
    assert [line["step"] for line in measured(tmp_path)] == [1, 2, 3, 4, 7]


def test_groups_go_by_the_name_in_the_model():
    matrix, scalar = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(()))
    found = [group_of(name, matrix) for name in ("visual.blocks.0", "textual_proj.weight", "projection.0", "local.x")]
    assert found == ["visual", "projections", "projections", "local"]
    assert group_of("curv", scalar) == group_of("visual_alpha", scalar) == "scalars"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"diagnose_every": -1}, "at least 0"), ({"diagnose_every": 5, "compile": True}, "set trainer.compile=towers")],
)
def test_settings_that_cannot_be_are_one_line(settings, message):
    with pytest.raises(UserError, match=message):
        TrainerSettings(epochs=1, **settings)


def part_of(rank, path):
    """Trains on a half of each batch; what was measured and the trained weights."""

    def half(number):
        return {"image": batch_number(number)["image"].repeat(2, 1)[3 * rank :][:3] * (1 + rank)}

    trained = []
    for every in (1, 0):
        model = TwoTerms(dropout=0.0)
        place = path / str(every)
        place.mkdir(parents=True, exist_ok=True)
        make(place, model=model, epochs=1, batch=half, diagnose_every=every).run()
        trained.append({name: value.clone() for name, value in model.state_dict().items()})
    return trained


def test_several_processes_measure_the_gradient_of_their_step(tmp_path):
    def whole(number):
        images = batch_number(number)["image"]
        return {"image": torch.cat([images, 2 * images])}

    for with_it, without in results_of(part_of, tmp_path / "two"):
        assert all(torch.equal(value, without[name]) for name, value in with_it.items())
    make(folder(tmp_path, "one"), model=TwoTerms(dropout=0.0), epochs=1, batch=whole, diagnose_every=1).run()
    for two, one in zip(measured(tmp_path / "two" / "1"), measured(tmp_path / "one"), strict=True):
        assert two.pop("cosine_to_total/constant") is one.pop("cosine_to_total/constant") is None
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


class Normed(nn.Module):
    """A batch norm behind a checkpoint, which computes its forward pass in every backward pass again."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    def forward(self, batch):
        out = torch.utils.checkpoint.checkpoint(self.layers, batch["image"], use_reentrant=False)
        terms = {"a": out.square().mean(), "b": (out - 1).abs().mean()}
        return Output(loss=sum(terms.values()), terms=terms)

    def constrain_(self):
        """Nothing has bounds."""


def test_statistics_of_checkpointed_batch_norms_stay(tmp_path):
    trained = []
    for every in (0, 1):
        model = Normed()
        make(folder(tmp_path, str(every)), model=model, epochs=1, diagnose_every=every).run()
        trained.append(model.state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


@pytest.mark.parametrize(
    "words",
    [["model=meru"], ["model=hycoclip"], ["model=meru_patches", "loss.part_entailment.weight=0.1"]],
    ids=lambda words: words[0],
)
def test_the_terms_of_a_model_add_up_to_its_loss(words, compose):
    config = compose(*words, "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2")
    torch.manual_seed(0)
    model = build(config).model
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    tokens = torch.randint(1, 400, (8, 7), generator=generator)
    everyone = torch.ones(8, dtype=torch.bool)
    batch = {
        "image": images, "tokens": tokens, "image_index": torch.arange(8), "class_index": torch.arange(8) % 3,
        "part_image": images.flip(0), "part_tokens": tokens.flip(0), "has_part": everyone, "has_part_text": everyone,
    }  # fmt: skip
    output = model(batch)
    assert set(output.terms) == {name.removeprefix("loss/") for name in output.logs if name.startswith("loss/")}
    assert sum(output.terms.values()).item() == pytest.approx(output.loss.item())
    gradients = TermGradients(model)
    gradients.add(output, share=1.0)
    figures = gradients.figures()
    output.loss.backward()
    together = [each.grad for each in model.parameters() if each.grad is not None]
    product = sum(
        figures[f"cosine_to_total/{term}"] * figures[f"gradient_norm/{term}/all"]
        for term in output.terms
        if figures[f"cosine_to_total/{term}"] is not None
    )
    # The projections of the terms' gradients on the total add up to its length.
    assert product == pytest.approx(math.sqrt(sum(each.square().sum().item() for each in together)), rel=1e-3)
