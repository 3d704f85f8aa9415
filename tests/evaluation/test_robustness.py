"""Corrupted images, shortened captions, and what they do to the distance from the origin."""

import json
import subprocess

import pytest
import torch
from scipy.stats import spearmanr

from meru.configuration import check
from meru.data.corruptions.families import FAMILIES
from meru.errors import UserError
from meru.evaluation.robustness import evaluate_robustness, mean_rank_correlation, shortened
from meru.files import PROJECT
from meru.reports.robustness import families_of, format_robustness, robustness_figure, severities_of
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train


def test_captions_keep_their_first_words():
    caption = "a man in a  red coat walks away"
    cuts = [shortened(caption, share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert cuts == ["a man", "a man in a", "a man in a red coat", "a man in a red coat walks away"]
    assert shortened("bird", 0.25) == "bird"


def test_correlation_is_the_mean_of_spearmans_over_the_items():
    generator = torch.Generator().manual_seed(0)
    degrees = torch.randint(1, 4, (50, 4), generator=generator)
    radii = torch.randint(1, 4, (50, 4), generator=generator) / 2 + 100 * torch.rand(50, 1, generator=generator)
    varied = [i for i in range(50) if len(set(degrees[i].tolist())) > 1 and len(set(radii[i].tolist())) > 1]
    told = [i for i in range(50) if len(set(degrees[i].tolist())) > 1]
    expected = sum(spearmanr(degrees[i], radii[i]).statistic for i in varied) / len(told)
    assert mean_rank_correlation(degrees, radii) == pytest.approx(expected)


def test_every_image_is_its_own_control():
    """Far apart from each other, but each of them moves towards the origin."""
    levels = torch.arange(4).expand(3, -1)
    radii = torch.tensor([[1.0], [50.0], [900.0]]) - 0.1 * levels
    assert mean_rank_correlation(levels, radii) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("degrees", "radii"),
    [
        (torch.arange(4).expand(5, -1), torch.nn.functional.normalize(torch.randn(5, 4, 32), dim=-1).norm(dim=-1)),
        (torch.ones(5, 4), torch.rand(5, 4)),
        (torch.arange(4).expand(5, -1), torch.zeros(5, 4)),
    ],
    ids=["unit sphere but for rounding", "captions of one word", "all at the origin"],
)
def test_without_variation_there_is_no_correlation(degrees, radii):
    assert mean_rank_correlation(degrees, radii) is None


class Brightness(torch.nn.Module):
    """Images and captions on a line: their radius is known."""

    def image_features(self, images):
        return images.float().mean(dim=(1, 2, 3))[:, None] / 255

    def lift_image(self, features):
        return features

    def embed_text(self, tokens):
        return tokens.float().sum(dim=1, keepdim=True)

    def similarity(self, queries, gallery):
        return -(queries - gallery.T).abs()

    def radius(self, embeddings):
        return embeddings.norm(dim=-1)


@pytest.fixture
def evaluated():
    images = torch.stack([torch.full((3, 16, 16), value, dtype=torch.uint8) for value in (250, 200, 30)])

    def batches(corruption):
        changed = torch.stack([(corruption or torch.clone)(image) for image in images])
        yield {"image": changed, "class_index": torch.tensor([4, 4, 7]), "image_index": torch.tensor([0, 1, 3])}

    def evaluate(**options):
        return evaluate_robustness(
            Brightness(),
            batches,
            captions=[("two words", "more"), ("three words here",), ("of a skipped image",), ("a",)],
            tokenizer=lambda captions: torch.tensor([[len(caption.split()) / 4] for caption in captions]),
            device=torch.device("cpu"),
            class_kind="identity",
            **options,
        )

    return evaluate


@pytest.fixture
def figures(evaluated):
    return evaluated(corruptions=["resolution", "occlusion", "night"])


def test_figures_of_a_model_whose_radii_are_known(figures):
    assert figures["clean/radius"] == pytest.approx((250 + 200 + 30) / 3 / 255)
    assert figures["resolution/5/radius"] == pytest.approx(figures["clean/radius"])
    assert figures["resolution/rank_correlation"] == 0  # even areas stay as they are: no evidence
    # Of these images only the dark one becomes brighter under a grey box.
    assert figures["occlusion/rank_correlation"] == pytest.approx((-1 - 1 + 1) / 3)
    assert figures["occlusion/feature_rank_correlation"] == figures["occlusion/rank_correlation"]
    assert figures["night/1/radius"] < figures["clean/radius"] and figures["night/rank_correlation"] < -0.5
    assert figures["caption/0.25/radius"] == pytest.approx(1 / 4)
    assert figures["caption/1/radius"] == pytest.approx((2 + 1 + 3 + 1) / 4 / 4)
    assert figures["caption/rank_correlation"] == pytest.approx(1)
    assert figures["clean/text_to_image/identity/recall@1"] == figures["caption/1/text_to_image/identity/recall@1"]
    # Captions at 0.5, 0.25, 0.75 and 0.25, images at 0.98, 0.78 and 0.12: the one-word caption of the first is wrong.
    assert figures["clean/text_to_image/identity/recall@1"] == pytest.approx(3 / 4)


def test_summaries_are_means_over_severities_and_over_families(figures):
    recall = "text_to_image/identity/recall@1"
    for name in (recall, "radius", "text_to_image/identity/chance_recall@1"):
        for family in ("occlusion", "night"):
            expected = sum(figures[f"{family}/{severity}/{name}"] for severity in range(1, 6)) / 5
            assert figures[f"{family}/mean/{name}"] == pytest.approx(expected)
        families = sum(figures[f"{family}/mean/{name}"] for family in ("resolution", "occlusion", "night")) / 3
        assert figures[f"mean/{name}"] == pytest.approx(families)
    assert figures["night/relative"] == pytest.approx(figures[f"night/mean/{recall}"] / figures[f"clean/{recall}"])
    assert figures["relative"] == pytest.approx(figures[f"mean/{recall}"] / figures[f"clean/{recall}"])


def test_what_is_kept_of_a_recall_near_chance_is_not_printed(figures):
    recall, chance = (f"clean/text_to_image/identity/{name}recall@1" for name in ("", "chance_"))
    tables = [
        format_robustness({**figures, "relative": 0.37, recall: clean, chance: 0.2}, "") for clean in (0.39, 0.41)
    ]
    assert [" 37" in table for table in tables] == [False, True]
    assert all("radius at 5" in table for table in tables)


def test_families_and_severities_can_be_chosen(evaluated):
    chosen = evaluated(corruptions=["fog"], severities=[4, 2])
    assert families_of(chosen) == ["fog"] and severities_of(chosen) == [2, 4]
    every = evaluated(severities=[1])
    assert families_of(every) == list(FAMILIES) and severities_of(every) == [1]
    none = evaluated(corruptions=[])
    assert families_of(none) == [] and severities_of(none) == [] and "mean/radius" not in none
    for some in (chosen, every, none):
        table = format_robustness(some, "test split")
        assert "None" not in table and "first 25% of words" in table and len(table.splitlines()) <= 22
        assert robustness_figure(some, "test split").axes
    assert "2     4" in format_robustness(chosen, "").splitlines()[1]


def test_table_and_plot_show_a_dash_where_there_is_no_correlation(figures):
    table = format_robustness(figures, "test split")
    assert "occlusion" in table and "-0.33" in table and "+1.00" in table and "nan" not in table
    flat = {name: None if name.endswith(("correlation", "relative")) else 1.0 for name in figures}
    table = format_robustness(flat, "test split")
    assert table.count("–") == 4 + 4 and "nan" not in table.lower() and "None" not in table
    for shown in (figures, flat):
        assert len(robustness_figure(shown, "test split").axes) == 4


@pytest.fixture
def finished(compose, cub_folder, tmp_path):
    def train_one(model):
        config = compose(
            f"experiment=birds_{model}", f"model={model}", "encoder.image.image_size=64",
            "encoder.text.architecture=L1_W16_A2", "data.load._target_=meru.data.datasets.cub.load_cub",
            f"data.root={cub_folder}", "data.batch_size=4",
            "data.workers=0", "trainer.epochs=1", "logger=none", f"folder={tmp_path / model}",
        )  # fmt: skip
        train(config, device=torch.device("cpu"))
        return tmp_path / model

    return train_one


@pytest.mark.parametrize("model", ["meru", "clip"])
def test_the_suite_of_a_run(model, finished, compose):
    run = finished(model)
    chosen = ("suite=robustness", "corruptions=[night,jpeg]", "severities=[1,5]")
    evaluate_run(compose(f"run={run}", *chosen, "workers=0", name="evaluate"))
    figures = json.loads((run / "robustness.json").read_text())
    recall = "text_to_image/class/recall@1"
    assert figures[f"clean/{recall}"] == json.loads((run / "test.json").read_text())[recall]
    assert figures["night/5/radius"] > 0 and (run / "robustness.png").stat().st_size > 10_000
    correlations = [value for name, value in figures.items() if name.endswith("/rank_correlation")]
    assert len(correlations) == 3 and all((value is None) == (model == "clip") for value in correlations)
    assert all(-1 <= figures[f"{family}/feature_rank_correlation"] <= 1 for family in ("night", "jpeg"))
    output = run / "else" / "where.json"
    evaluate_run(compose(f"run={run}", *chosen, "workers=1", f"output={output}", name="evaluate"))
    assert json.loads(output.read_text()) == pytest.approx(figures) and output.with_suffix(".png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("severities=[9]", "severities=[9]"),
        ("severities=[]", "severities=[]"),
        ("corruptions=[hail]", "corruptions=[hail]"),
    ],
)
def test_another_severity_or_family_is_one_line(words, message, compose):
    with pytest.raises(UserError) as error:
        check(compose("run=anything", "suite=robustness", words, name="evaluate"), command="evaluate")
    text = str(error.value)
    assert message in text and "\n" not in text and ("from 1 to 5" in text or "one of night" in text)


def test_ranking_figures_are_timed(warm_python):
    words = ["retrieval", "--size", "40", "--dimension", "8", "--identities", "5"]
    command = [warm_python, PROJECT / "scripts" / "benchmark.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "threads: 1" in done.stdout and "40 queries × 40" in done.stdout
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[-2:]] == ["| cosine", "| hyperboloid, −distance"]
