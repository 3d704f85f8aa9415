"""UNCHA, ARGENT, the sigmoid contrast and EuCLIP as models: their terms by loops, their limits, and what is refused."""

import math

import pytest
import torch
from every_term import EVERY_TERM

from meru.encoders.image import timm_image_encoder
from meru.encoders.text import text_transformer
from meru.errors import UserError
from meru.geometry import lorentz
from meru.geometry.spaces import Euclidean, Hyperboloid
from meru.losses.contrastive import contrastive_loss
from meru.losses.entailment import entailment_angle, entailment_excess, norm_regulariser
from meru.losses.uncha import confidence
from meru.models.clip import CLIP
from meru.models.hycoclip import HyCoCLIP, PartStep
from meru.models.meru import MERU
from meru.models.terms import contrastive
from meru.models.uncha import UNCHA, part_contrast, part_whole_contrast

SIZE, WIDTH, CURVATURE = 5, 16, 0.7
CLASSES = torch.tensor([0, 0, 1, 2, 3])
HAS_PART, HAS_TEXT = torch.tensor([True, True, True, True, False]), torch.tensor([True, True, False, True, False])


def build(kind, contrastive=None, entailment=None, positives="pair", **arguments):
    torch.manual_seed(0)
    loss = {
        "contrastive": {"weight": 1.0, "positives": positives, "bias": -3.0, **(contrastive or {})},
        "entailment": {**EVERY_TERM["entailment"], **(entailment or {})},
        "norm": {"weight": 0.1},
    }
    if kind is not CLIP:
        arguments = {"curvature": CURVATURE, **arguments}
    return kind(
        image=timm_image_encoder(name="test_resnet", image_size=32),
        text=text_transformer(architecture="L1_W16_A2", context_length=12),
        loss=loss,
        embedding_dimension=WIDTH,
        **arguments,
    )


def step_of(points, has_part=HAS_PART, has_text=HAS_TEXT):
    image, text, part_image, part_text = points
    return PartStep(
        batch={"image": torch.zeros(SIZE, 1), "class_index": CLASSES},
        image=image, text=text, part_image=part_image, part_text=part_text, has_part=has_part, has_text=has_text,
    )  # fmt: skip


def random_points():
    """Images, captions, part images and part texts `(4, SIZE, WIDTH)`, from far out to near the origin."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, SIZE, WIDTH, generator=generator)
    tangent = 0.1 * (shared + torch.randn(4, SIZE, WIDTH, generator=generator))
    return lorentz.exp_map0(tangent * torch.tensor([1, 0.8, 0.6, 0.5])[:, None, None], CURVATURE)


def cross_entropies(rows, columns, scales, positives, kept):
    """−log of the share of each row's positives, averaged over them, by loops over the kept columns."""
    losses = []
    for i, row in enumerate(rows):
        logits = {
            j: -scales[i] * lorentz.distance(row, column, CURVATURE).item()
            for j, column in enumerate(columns)
            if kept(i, j)
        }
        total = math.log(sum(math.exp(value) for value in logits.values()))
        mine = [total - logits[j] for j in logits if positives(i, j)]
        losses.append(sum(mine) / len(mine) if mine else math.nan)
    return losses


def mean_of(values, rows):
    return sum(value for value, row in zip(values, rows.tolist(), strict=True) if row) / rows.sum().item()


@pytest.mark.parametrize("positives", ["pair", "class"])
def test_the_contrasts_of_parts_are_what_loops_give(positives):
    model, points = build(UNCHA, positives=positives), random_points()
    step = step_of(points)
    image, text, part_image, part_text = points

    def alike(i, j):
        return i == j if positives == "pair" else CLASSES[i] == CLASSES[j]

    part = [model.part_logit_scale.exp().item()] * SIZE
    arguments = {"positives": lambda i, j: i == j, "kept": lambda i, j: HAS_TEXT[j] and (i == j or not alike(i, j))}
    expected = 0.5 * sum(
        mean_of(cross_entropies(rows, columns, part, **arguments), HAS_TEXT)
        for rows, columns in ((part_image, part_text), (part_text, part_image))
    )
    assert part_contrast(model, step).item() == pytest.approx(expected, rel=1e-4)
    expected = 0
    for rows, columns, mask in ((part_image, text, HAS_PART), (part_text, image, HAS_TEXT)):
        weights = [math.exp(-math.log(1 + math.exp(-row.norm().item())) / 2) for row in rows]
        scales = [model.part_whole_logit_scale.exp().item() * weight for weight in weights]
        values = cross_entropies(rows, columns, scales, positives=alike, kept=lambda i, j: True)
        expected += 0.5 * mean_of(values, mask)
    assert part_whole_contrast(model, step).item() == pytest.approx(expected, rel=1e-4)


def test_the_calibrated_entailment_is_what_loops_give():
    model, points = build(UNCHA), random_points()
    image, text, part_image, part_text = points
    space, expected = model.space, 0.0
    everyone = torch.ones(SIZE, dtype=torch.bool)
    relations = [
        (text, image, 0.7, everyone), (part_text, part_image, 0.7, HAS_TEXT),
        (part_image, image, 1.2, HAS_PART), (part_text, text, 1.2, HAS_TEXT),
    ]  # fmt: skip
    for number, (general, specific, eta, mask) in enumerate(relations):
        residuals, calibrations = [], []
        for x, y in zip(general, specific, strict=True):
            angle, aperture = space.exterior_angle(x, y).item(), space.half_aperture(x, 0.1).item()
            over = angle - eta * aperture
            residual = over + 0.1 * angle if over > 0 else 0.1 * angle
            u = math.log(1 + math.exp(-x.norm().item()))
            residuals.append(residual)
            calibrations.append(0.5 * residual / math.exp(u) + 0.5 * u)
        expected += (0.5 if number < 2 else 0.25) * mean_of(residuals, mask)
        expected += 10 * mean_of(calibrations, mask) if number > 1 else 0
    assert model.terms["entailment"](model, step_of(points)).item() == pytest.approx(expected, rel=1e-5)


def test_with_one_uncertainty_uncha_is_piecewise_entailment_and_plain_contrasts():
    """All parts at one radius: u is a constant, the rows have one factor, and only the radius has another gradient."""
    model, points = build(UNCHA), random_points()
    points[2:] *= 0.5 / points[2:].norm(dim=-1, keepdim=True)
    points = points.requires_grad_()
    everyone = torch.ones(SIZE, dtype=torch.bool)
    step = step_of(points, everyone, everyone)
    image, text, part_image, part_text = points
    factor = confidence(part_image)
    torch.testing.assert_close(factor, factor[:1].expand(SIZE))
    scale, targets = factor[0] * model.part_whole_logit_scale.exp(), torch.eye(SIZE)
    logits = [scale * model.similarity(part, whole) for part, whole in ((part_image, text), (part_text, image))]
    torch.testing.assert_close(part_whole_contrast(model, step), contrastive_loss(*logits, targets))
    logits = model.part_logit_scale.exp() * model.similarity(part_image, part_text)
    torch.testing.assert_close(part_contrast(model, step), contrastive_loss(logits, logits.t(), targets))

    space, apertures = model.space, (0.7, 0.7, 1.2, 1.2)
    pairs = ((text, image), (part_text, part_image), (part_image, image), (part_text, text))
    piecewise = [
        (entailment_excess(x, y, space, aperture_scale=eta) + 0.1 * space.exterior_angle(x, y)).mean()
        for (x, y), eta in zip(pairs, apertures, strict=True)
    ]
    plain = 0.5 * (piecewise[0] + piecewise[1]) + 0.25 * (piecewise[2] + piecewise[3])
    (ours,) = torch.autograd.grad(model.terms["entailment"](model, step), points)
    (expected,) = torch.autograd.grad(plain, points)
    torch.testing.assert_close(ours[:2], expected[:2])
    radial = points[2:].detach() / points[2:].norm(dim=-1, keepdim=True).detach()
    across = [each - (each * radial).sum(-1, keepdim=True) * radial for each in (ours[2:], expected[2:])]
    torch.testing.assert_close(across[0], across[1], atol=1e-6, rtol=1e-4)


def test_every_scale_of_uncha_learns_and_is_bounded_and_parts_are_more_uncertain():
    model = build(UNCHA)
    step = step_of(random_points().requires_grad_())
    model.terms["contrastive"](model, step).backward()
    for name in ("logit_scale", "part_logit_scale", "part_whole_logit_scale"):
        assert getattr(model, name).grad.abs() > 0, name
        getattr(model, name).data.fill_(9.0)
    model.constrain_()
    assert all(scale.exp() <= 100.001 for scale in model.logit_scales().values())
    logs = model.logs(step)
    assert logs["uncertainty/part_image"] > logs["uncertainty/image"]
    assert {"contrast/whole", "contrast/part", "contrast/part_whole"} <= step.figures.keys()


@pytest.mark.parametrize("name", ["contrastive", "entailment", "norm"])
def test_no_part_in_a_batch_leaves_the_terms_of_wholes(name):
    nowhere = torch.zeros(SIZE, dtype=torch.bool)
    model, points = build(UNCHA), random_points().requires_grad_()
    step = step_of(points, nowhere, nowhere)
    loss = model.terms[name](model, step)
    (gradient,) = torch.autograd.grad(loss, points)
    assert loss.isfinite() and (gradient[2:] == 0).all() and gradient[:2].isfinite().all() and gradient[:2].any()
    assert all(figure.isfinite().all() for figure in model.logs(step).values())


@pytest.mark.parametrize("kind", [HyCoCLIP, UNCHA])
def test_gradients_are_finite_where_all_points_meet_at_the_origin_and_far_out(kind):
    direction = torch.eye(WIDTH)[0]
    for where in (0 * direction, 0.3 * direction, lorentz.exp_map0(18 * direction, CURVATURE)):
        points = where.expand(4, SIZE, WIDTH).clone().requires_grad_()
        model = build(kind, entailment={"kind": "argent"} if kind is HyCoCLIP else None)
        step = step_of(points)
        loss = sum(model.terms[name](model, step) for name in ("contrastive", "entailment", "norm"))
        loss.backward()
        assert loss.isfinite() and points.grad.isfinite().all()


@pytest.mark.parametrize("space", ["hyperboloid", "euclidean"])
def test_argent_takes_four_relations_and_averages_the_pair_within_modalities(space):
    model, points = build(HyCoCLIP, entailment={"kind": "argent"}, space=space), random_points()
    image, text, part_image, part_text = points
    relations = [
        (text, image, False),
        (part_text[HAS_TEXT], part_image[HAS_TEXT], False),
        (part_image[HAS_PART], image[HAS_PART], True),
        (part_text[HAS_TEXT], text[HAS_TEXT], True),
    ]
    means = [entailment_angle(x, y, model.space, within_modality=within).mean() for x, y, within in relations]
    expected = 0.5 * (means[0] + means[1] + 0.5 * (means[2] + means[3]))
    torch.testing.assert_close(model.terms["entailment"](model, step_of(points)), expected)
    kinds = (image, text, part_image[HAS_PART], part_text[HAS_TEXT])
    expected = torch.stack([norm_regulariser(each).mean() for each in kinds]).mean()
    torch.testing.assert_close(model.terms["norm"](model, step_of(points)), expected)
    meru = build(MERU, entailment={"kind": "argent"}, space=space)
    expected = entailment_angle(text, image, meru.space).mean()
    torch.testing.assert_close(meru.terms["entailment"](meru, step_of(points)), expected)
    assert "angle" in meru.logs(step_of(points)) and "angle" not in build(MERU).logs(step_of(points))


@pytest.mark.parametrize("positives", ["pair", "class"])
@pytest.mark.parametrize("kind", [CLIP, MERU])
def test_the_sigmoid_contrast_is_what_loops_give_and_its_bias_learns(kind, positives):
    model, points = build(kind, contrastive={"kind": "sigmoid"}, positives=positives), random_points()
    scores, expected = model.similarity(points[0], points[1]), 0.0
    for i in range(SIZE):
        for j in range(SIZE):
            sign = 1 if (i == j if positives == "pair" else CLASSES[i] == CLASSES[j]) else -1
            logit = model.logit_scale.exp().item() * scores[i, j].item() - 3
            expected += math.log(1 + math.exp(-sign * logit)) / SIZE
    loss = contrastive(model, step_of(points))
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert model.logit_bias.grad.abs() > 0 and model.logs(step_of(points))["logit_bias"] == -3
    assert "logit_bias" not in build(kind).state_dict()


def test_the_sigmoid_contrast_of_hycoclip_judges_parts_and_wholes():
    model, points = build(HyCoCLIP, contrastive={"kind": "sigmoid"}), random_points()
    image, text, part_image, part_text = points

    def judged(rows, columns, mask):
        logits = model.logit_scale.exp() * model.similarity(rows, columns) - 3
        signs = 2 * torch.eye(SIZE) - 1
        return torch.log1p(torch.exp(-signs * logits)).sum(1)[mask].mean()

    everyone = torch.ones(SIZE, dtype=torch.bool)
    expected = 0.25 * sum(judged(*each) for each in (
        (image, text, everyone), (text, image, everyone), (part_image, text, HAS_PART), (part_text, image, HAS_TEXT),
    ))  # fmt: skip
    torch.testing.assert_close(model.terms["contrastive"](model, step_of(points)), expected)


def test_squared_distances_rank_as_distances_and_are_those_of_euclip():
    plain, squared = (build(MERU, space="euclidean", score=f"{name}distance") for name in ("", "squared_"))
    points = random_points()
    expected = -((points[0][:, None] - points[1]) ** 2).sum(-1)
    torch.testing.assert_close(squared.similarity(points[0], points[1]), expected)
    order = plain.similarity(points[0], points[1]).argsort(1)
    assert torch.equal(squared.similarity(points[0], points[1]).argsort(1), order)
    same = points[0].clone().requires_grad_()
    squared.similarity(same, same).sum().backward()
    assert same.grad.isfinite().all()


def test_flat_cones_are_the_limit_of_the_lorentz_cones():
    generator = torch.Generator().manual_seed(0)
    general, specific = torch.randn(2, 20, 3, generator=generator, dtype=torch.float64)
    flat = entailment_excess(general, specific, Euclidean(), minimum_radius=0.2)
    errors = []
    for curvature in (1e-2, 1e-4, 1e-6):  # K of the hyperboloid is K√c/2: see `Euclidean`
        k = 0.2 * curvature**0.5 / 2
        curved = entailment_excess(general, specific, Hyperboloid(curvature), minimum_radius=k)
        errors.append((curved - flat).abs().max().item())
    assert errors[0] > 50 * errors[1] > 2500 * errors[2] and errors[2] < 1e-5


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (UNCHA, {"contrastive": {"kind": "sigmoid"}}, "UNCHA has three contrasts by softmax"),
        (UNCHA, {"entailment": {"kind": "argent"}}, "UNCHA calibrates cones"),
        (MERU, {"entailment": {"kind": "argent", "apex_floor": 2.0}}, "apex_floor=2.0: kind=argent has no cones"),
        (MERU, {"entailment": {"kind": "huber"}}, "loss.entailment.kind"),
        (CLIP, {"contrastive": {"kind": "logistic"}}, "loss.contrastive.kind"),
        (MERU, {"entailment": {"weight": 0.0}, "space": "sphere"}, "all points have norm 1; set loss.norm.weight=0"),
        (MERU, {"score": "squared"}, "model.score"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(kind, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        build(kind, **arguments)
    assert "\n" not in str(caught.value)
