"""Corruptions are functions of the image alone, work on every size, and hurt more at higher severities."""

import math
import pickle

import pytest
import torch
from torch.nn import functional as F
from torchvision.utils import save_image

from meru.data.corruptions import families, lens, light
from meru.data.corruptions.families import FAMILIES, SEVERITIES, Corruption
from meru.data.corruptions.optics import disc_blurred, displayed, line_blurred, linear_light, smooth_field
from meru.data.corruptions.training import CorruptedViews
from meru.data.loading import ordered_loader
from meru.data.transforms import ChangedFirst, EvaluationTransform, training_transform
from meru.errors import UserError

EVERY = [Corruption(family, severity) for family in FAMILIES for severity in SEVERITIES]


def photograph(seed=0, height=48, width=64):
    """Smooth colours with edges and a little noise, neither dark nor bright."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 9, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic")[0]
    edges = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), (height, width), mode="nearest")[0]
    noise = 0.05 * torch.rand(3, height, width, generator=generator)
    return (255 * (0.15 + 0.35 * smooth + 0.25 * edges + noise)).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("corruption", EVERY, ids=lambda each: f"{each.family}-{each.severity}")
def test_corruptions_are_functions_of_the_image_alone(corruption):
    image = photograph()
    before = image.clone()
    torch.manual_seed(1)
    first = corruption(image)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = pickle.loads(pickle.dumps(corruption))(image)
    assert torch.equal(first, second) and torch.equal(image, before)
    assert first.dtype == torch.uint8 and first.shape == image.shape and not torch.equal(first, image)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # the default generator is left alone


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (2, 3), (5, 90), (8, 8)], ids=str)
def test_small_and_thin_images_keep_their_size(family, size):
    image = photograph(height=size[0], width=size[1])
    for severity in (1, 5):
        assert Corruption(family, severity)(image).shape == (3, *size)


@pytest.mark.parametrize("family", FAMILIES)
def test_damage_grows_with_severity(family):
    images = [photograph(seed, 96, 120) for seed in range(6)]
    damage = [
        sum((Corruption(family, severity)(image).float() - image.float()).square().mean().item() for image in images)
        for severity in SEVERITIES
    ]
    assert damage == sorted(damage) and damage[4] > 1.5 * damage[0] > 0


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("defocus_blur", "jpeg", "resolution")])
def test_images_have_random_numbers_of_their_own(family):
    """One bit more in a corner changes the seed, and so the rain in the other corner."""
    image = photograph()
    other = image.clone()
    other[0, 0, 0] += 1
    far = (slice(None), slice(24, None), slice(32, None))
    assert not torch.equal(Corruption(family, 5)(image)[far], Corruption(family, 5)(other)[far])


def test_neither_workers_nor_batches_change_a_corrupted_image(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        save_image(photograph(number).float() / 255, path)
    transform = ChangedFirst(Corruption("snow", 3), EvaluationTransform(32))
    read = [
        torch.cat([batch["image"] for batch in ordered_loader(paths, {}, transform=transform, **how)])
        for how in ({"batch_size": 5, "workers": 0}, {"batch_size": 2, "workers": 2}, {"batch_size": 1, "workers": 1})
    ]
    assert torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])


def test_the_drops_of_light_rain_are_among_those_of_heavy_rain():
    image = torch.zeros(3, 80, 80, dtype=torch.uint8)
    light_rain, heavy = (Corruption("rain", severity)(image).float().mean(dim=0) for severity in (1, 3))
    drops = light_rain > light_rain.median() + 20
    assert drops.any() and (heavy[drops] > heavy.median()).float().mean() > 0.95


def test_fog_pales_and_flattens_and_night_darkens():
    image = photograph()
    fog, night = Corruption("fog", 5)(image).float(), Corruption("night", 5)(image).float()
    assert fog.std() < 0.5 * image.float().std() and fog.mean() > image.float().mean()
    assert night.mean() < 0.6 * image.float().mean()


def test_night_has_the_noise_of_photons_and_of_reading():
    grey = torch.full((3, 200, 200), 186, dtype=torch.uint8)  # half of the light
    photons, brightness, cast = light.NIGHT[0]
    seen = linear_light(Corruption("night", 1)(grey)).mean(dim=(1, 2)) / brightness
    assert (seen <= 0.51).all() and (seen >= 0.5 * (1 - cast) - 0.02).all()
    spread = (linear_light(Corruption("night", 1)(grey)) / brightness * photons).std(dim=(1, 2))
    expected = (seen * photons + light.READ_NOISE**2).sqrt()
    assert torch.allclose(spread, expected, rtol=0.06)  # the variance of a count is its mean


def test_boxes_cover_their_share_and_lie_within_each_other_at_another_place_for_every_image():
    places = set()
    for seed in range(20):
        image = photograph(seed) // 2 + 129  # nowhere grey by itself
        small, large = ((Corruption("occlusion", each)(image) == 128).all(dim=0) for each in (1, 5))
        assert small.float().mean().item() == pytest.approx(0.1, abs=0.02)
        assert large.float().mean().item() == pytest.approx(0.5, abs=0.03)
        assert (small & ~large).sum() <= small.sum() * 0.15  # but for the rounding of a side
        places.add(tuple(small.nonzero()[0].tolist()))
    assert len(places) > 10


def test_blurs_are_means_over_a_line_and_a_disc():
    point = torch.zeros(1, 31, 31)
    point[0, 15, 15] = 1
    line = line_blurred(point, 9, 0.0)[0]
    assert line.sum().item() == pytest.approx(1, abs=1e-5) and (line.nonzero()[:, 0] == 15).all()
    assert (line[15] > 0).sum() in (9, 10)
    disc = disc_blurred(point, 6.0)[0]
    assert disc.sum().item() == pytest.approx(1, abs=1e-5)
    reached = (disc > 0.5 * disc.max()).sum().item()
    assert reached == pytest.approx(math.pi * 6.5**2, rel=0.1)
    assert (disc - disc.T).abs().sum() < 0.1 and torch.allclose(disc, disc.flip(0).flip(1), atol=1e-6)
    flat = torch.full((3, 9, 9), 0.4)
    assert torch.allclose(disc_blurred(flat, 20.0), flat) and torch.allclose(line_blurred(flat, 20.0, 1.0), flat)


def test_light_and_its_display_are_inverse_and_fields_lie_between_0_and_1():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(displayed(linear_light(every)), every)
    field = smooth_field(40, 60, torch.Generator().manual_seed(0))
    assert field.min() == 0 and field.max() == 1 and (field[:, 1:] - field[:, :-1]).abs().max() < 0.3


def test_a_camera_that_stays_where_it_is_sees_the_same_picture(monkeypatch):
    monkeypatch.setattr(lens, "VIEWPOINT", ((0, 0),) * 5)
    image = photograph()
    assert (Corruption("viewpoint", 1)(image).int() - image.int()).abs().max() <= 1


def test_large_images_are_reduced_first_and_damaged_alike(monkeypatch):
    image = photograph(height=90, width=120)
    monkeypatch.setattr(families, "LARGEST", 30 * 40)
    assert Corruption("fog", 2)(image).shape == (3, 30, 40)


@pytest.mark.parametrize(("family", "severity"), [("hail", 1), ("fog", 9), ("fog", 0)])
def test_there_is_no_other_corruption(family, severity):
    with pytest.raises(ValueError, match="no such corruption"):
        Corruption(family, severity)


# ---------------------------------------------------------------- training


def test_a_share_of_the_training_views_is_corrupted():
    image, view = photograph(), EvaluationTransform(32)
    plain = view(image)
    torch.manual_seed(0)
    seen = [CorruptedViews(view, families=["night", "fog"], share=0.3)(image) for _ in range(200)]
    assert 40 < sum(not torch.equal(each, plain) for each in seen) < 80
    assert len({each.numpy().tobytes() for each in seen}) == 1 + 2 * 3  # families × severities
    assert all(torch.equal(CorruptedViews(view, families=["fog"], share=0.0)(image), plain) for _ in range(20))


def test_corrupted_views_follow_torchs_generator_and_see_the_full_size():
    image = photograph(height=100, width=140)
    transform = CorruptedViews(training_transform(32), families=["rain"], share=1.0)
    seen = []
    for _ in range(2):
        torch.manual_seed(5)
        seen.append(transform(image[:, ::2, ::2], (100, 140)))
    assert torch.equal(*seen) and seen[0].shape == (3, 32, 32)
    assert transform.spare(100, 140) == training_transform(32).spare(100, 140)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ["hail"]}, "data.corruptions has no hail: choose from night"),
        ({"families": []}, r"data.corruptions=\[\]: name some"),
        ({"families": ["fog"], "share": 1.5}, "data.corruption_share=1.5"),
    ],
)
def test_wrong_corruptions_of_training_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        CorruptedViews(EvaluationTransform(32), **arguments)


def test_messages_name_a_corruption_in_words():
    assert str(Corruption("motion_blur", 2)) == "motion blur, severity 2"
