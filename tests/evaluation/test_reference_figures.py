"""Figures of the suites against scikit-learn and slow loops in float64, from pictures to figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, top_k_accuracy_score
from torchvision.io import write_png

from meru.assemble import Pretrained, Transforms
from meru.data.labelled import NO_IMAGES, LabelledData, LabelledImages, LabelSets
from meru.data.records import ImageRecord, ImageTextData
from meru.data.transforms import EvaluationTransform
from meru.errors import UserError
from meru.evaluation.hierarchy import evaluate_hierarchy, format_hierarchy
from meru.evaluation.linear_probe import _best_power, evaluate_linear_probe
from meru.evaluation.multilabel import evaluate_multilabel
from meru.evaluation.retrieval import evaluate_retrieval
from meru.evaluation.suite import Subject
from meru.evaluation.zero_shot import evaluate_zero_shot
from meru.geometry.spaces import Hyperboloid, Sphere
from meru.metrics.entailment import pair_metrics

SIDE, WIDTH = 6, 5
CURVATURE = 0.7
TEMPLATES = ["a photo of a {}.", "a {} in the wild", "my {}!"]
SPACES = {"hyperboloid": Hyperboloid(CURVATURE), "sphere": Sphere()}


class Model(torch.nn.Module):
    """Embeds images by a fixed linear map of their pixels, and each text by a vector of its own."""

    def __init__(self, space):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.space = space
        self.weight = torch.randn(3 * SIDE * SIDE, WIDTH, generator=generator) / (3 * SIDE)
        self.table = torch.randn(1000, WIDTH, generator=generator)
        self.similarity, self.average, self.radius = space.similarity, space.average, space.radius

    def image_features(self, images):
        return (images.float() / 128 - 1).flatten(1) @ self.weight

    def embed_image(self, images):
        return self.space.lift(self.image_features(images))

    def embed_text(self, tokens):
        return self.space.lift(self.table[tokens[:, 0]])


class Tokenizer:
    """Texts → numbers in the order in which they are met."""

    def __init__(self):
        self.number: dict[str, int] = {}

    def batch(self, texts):
        return torch.tensor([[self.number.setdefault(text, len(self.number))] for text in texts])


def subject(data, space="hyperboloid", **section):
    pretrained = Pretrained(
        Model(SPACES[space]).eval(), Tokenizer(), Transforms(training=None, evaluation=EvaluationTransform(SIDE))
    )
    section = {"on_error": "raise", "workers": 0, "prompts": TEMPLATES, "split_seed": 0, "timeout": 0, **section}
    settings = {
        "batch_size": 7, "split": None, "templates": None, "captions_per_image": None, "probe_features": "tangent",
    }  # fmt: skip
    return Subject(pretrained, data, section, settings, torch.device("cpu"))


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def scores_of(given, image_tangents, text_tangents):
    """Similarity of tangent vectors by the formulas of the spaces, float64."""
    images, texts = (np.asarray(each, dtype=np.float64) for each in (image_tangents, text_tangents))
    if isinstance(given.model.space, Sphere):
        images, texts = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, texts))
        return images @ texts.T
    found = np.empty((len(images), len(texts)))
    for row, column in itertools.product(range(len(images)), range(len(texts))):
        x, y = (_lifted(each) for each in (images[row], texts[column]))
        inner = x @ y - np.sqrt(1 / CURVATURE + x @ x) * np.sqrt(1 / CURVATURE + y @ y)
        found[row, column] = -np.arccosh(max(1.0, -CURVATURE * inner)) / np.sqrt(CURVATURE)
    return found


def _lifted(tangent):
    length = np.sqrt(CURVATURE) * np.linalg.norm(tangent)
    return np.sinh(length) / length * tangent


def class_tangents(given, names):
    """The mean of the tangent vectors of a class's prompts; on a sphere of their directions."""
    means = []
    for name in names:
        numbers = [given.pretrained.tokenizer.number[template.replace("{}", name)] for template in TEMPLATES]
        rows = given.model.table[numbers].double().numpy()
        if isinstance(given.model.space, Sphere):
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        means.append(rows.mean(axis=0))
    return np.stack(means)


NAMES = ("gull", "tern", "owl", "wren", "robin", "crow", "pigeon")


@pytest.mark.parametrize("space", SPACES)
def test_zero_shot(space):
    labels = torch.arange(60) % 6  # the last class does not occur
    labels[:25] = 0
    data = LabelledData(NAMES, NO_IMAGES, LabelledImages(pictures(60), labels))
    given = subject(data, space)
    figures = evaluate_zero_shot(given)
    scores = scores_of(given, given.model.image_features(pictures(60)), class_tangents(given, NAMES))
    chosen = scores.argmax(axis=1)
    assert figures["zero_shot/accuracy@1"] == pytest.approx(accuracy_score(labels, chosen))
    by_class = recall_score(labels, chosen, labels=range(6), average="macro")
    assert figures["zero_shot/class_mean/accuracy@1"] == pytest.approx(by_class)
    assert figures["zero_shot/accuracy@5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=range(7)))
    assert figures["zero_shot/accuracy@1"] != figures["zero_shot/class_mean/accuracy@1"]


@pytest.mark.parametrize("space", SPACES)
def test_retrieval_with_several_captions_an_image(space, tmp_path):
    counts, images = (5, 1, 7, 2, 5, 5, 3, 4, 1, 6, 5, 5), pictures(12)
    records = []
    for number, count in enumerate(counts):
        path = tmp_path / f"{number}.png"
        write_png(images[number], str(path))
        records.append(ImageRecord(path, number, tuple(f"caption {number} {place}" for place in range(count))))
    given = subject(ImageTextData((), (), (), tuple(records), class_kind="image"), space)
    figures = evaluate_retrieval(given)
    owner = [number for number, count in enumerate(counts) for _ in range(count)]
    captions = [caption for record in records for caption in record.captions]
    texts = given.model.table[[given.pretrained.tokenizer.number[caption] for caption in captions]]
    scores = scores_of(given, given.model.image_features(images), texts)
    for k in (1, 5, 10):
        first = [np.argsort(-row)[:k] for row in scores]
        found = np.mean([any(owner[place] == image for place in places) for image, places in enumerate(first)])
        assert figures[f"image_to_text/image/recall@{k}"] == pytest.approx(found)
        first = [np.argsort(-column)[:k] for column in scores.T]
        found = np.mean([owner[caption] in places for caption, places in enumerate(first)])
        assert figures[f"text_to_image/image/recall@{k}"] == pytest.approx(found)
    assert figures["captions"] == sum(counts)


def average_precision(positive, scores):
    """The mean precision at the ranks of positives, by counting."""
    precision = []
    for place in np.flatnonzero(positive):
        above = scores >= scores[place]
        precision.append(positive[above].mean())
    return np.mean(precision)


@pytest.mark.parametrize("space", SPACES)
def test_multilabel_with_undecided_objects_and_a_class_without_positives(space):
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(-1, 2, (40, 4), generator=generator)
    targets[:, 2] = targets[:, 2].clamp(max=0)
    given = subject(LabelSets(NAMES[:4], pictures(40), targets), space)
    figures = evaluate_multilabel(given)
    scores = scores_of(given, given.model.image_features(pictures(40)), class_tangents(given, NAMES[:4]))
    expected = {}
    for number in (0, 1, 3):
        decided = (targets[:, number] >= 0).numpy()
        expected[NAMES[number]] = average_precision((targets[:, number] == 1).numpy()[decided], scores[decided, number])
    for name, value in expected.items():
        assert figures[f"multilabel/{name}/average_precision"] == pytest.approx(value)
    assert figures["multilabel/mean_average_precision"] == pytest.approx(np.mean(list(expected.values())))
    assert figures["multilabel/classes"] == 3
    with pytest.raises(UserError, match="no image shows any of the classes"):
        evaluate_multilabel(subject(LabelSets(NAMES[:4], pictures(40), targets.clamp(max=0)), space))


def test_hierarchy_as_published_and_with_the_class_itself(tmp_path):
    parents = {
        "gull": ["seabird"], "tern": ["seabird"], "owl": ["bird of prey", "night bird"], "wren": ["songbird"],
        "robin": ["songbird"], "crow": ["songbird", "night bird"], "pigeon": ["bird"], "seabird": ["bird"],
        "songbird": ["bird"], "bird of prey": ["bird"], "night bird": ["bird"], "bird": [],
    }  # fmt: skip
    path = tmp_path / "parents.csv"
    path.write_text("".join(f"{child},{parent}\n" for child, above in parents.items() for parent in above))
    labels = torch.arange(70) % 7
    data = LabelledData(NAMES, NO_IMAGES, LabelledImages(pictures(70), labels))
    given = subject(data, parents=str(path))
    figures = evaluate_hierarchy(given)
    scores = scores_of(given, given.model.image_features(pictures(70)), class_tangents(given, NAMES))

    def above(name):
        return set().union(*({parent} | above(parent) for parent in parents[name]))

    rows = {"": [], "ancestors_only/": []}
    for label, chosen in zip(labels.tolist(), scores.argmax(axis=1).tolist(), strict=True):
        p, t = NAMES[chosen], NAMES[label]
        for row, own in (("", True), ("ancestors_only/", False)):
            a, b = above(p) | {p} if own else above(p), above(t) | {t} if own else above(t)
            both = len(a & b)
            rows[row].append((len(a) - both + 1, both / len(a | b), both / len(a), both / len(b)))
    for row, values in rows.items():
        names = ("lowest_common_ancestor", "jaccard", "precision", "recall")
        for name, value in zip(names, np.mean(values, axis=0), strict=True):
            assert figures[f"hierarchy/{row}{name}"] == pytest.approx(value)
    assert f"Jaccard {figures['hierarchy/ancestors_only/jaccard']:.3f}" in format_hierarchy(figures, "test")


@pytest.mark.parametrize("levels", [3, 1000])
def test_pairs_with_ties(levels):
    generator = np.random.default_rng(levels)
    scores, positive = generator.integers(0, levels, 80) / levels, generator.random(80) < 0.3
    found = pair_metrics(torch.from_numpy(scores), torch.from_numpy(positive))
    wins = [(s > t) + 0.5 * (s == t) for s in scores[positive] for t in scores[~positive]]
    assert found["area_under_roc"] == pytest.approx(np.mean(wins))
    assert found["average_precision"] == pytest.approx(average_precision(positive, scores))
    assert found["share_of_ties"] == pytest.approx(np.mean([(scores == each).sum() > 1 for each in scores]))


# ------------------------------------------------------------------------------------------------ linear probe
def probe_data(test_seed=9):
    labels = torch.arange(120) % 3
    shift = (40 * labels)[:, None, None, None]
    train = LabelledImages((pictures(120) // 2 + shift).to(torch.uint8), labels)
    test = LabelledImages((pictures(30, test_seed) // 2 + shift[:30]).to(torch.uint8), labels[:30])
    return LabelledData(NAMES[:3], train, test)


def test_a_linear_probe_is_that_of_scikit_learn_at_the_same_penalty():
    data = probe_data()
    given = subject(data)
    figures = evaluate_linear_probe(given)
    train, test = (given.model.image_features(each.images).double().numpy() for each in (data.train, data.test))
    scale = np.sqrt((train**2).mean())
    other = LogisticRegression(C=10 ** figures["linear_probe/log10_c"], solver="newton-cg", tol=1e-10, max_iter=10_000)
    chosen = other.fit(train / scale, data.train.labels).predict(test / scale)
    assert figures["linear_probe/accuracy@1"] == pytest.approx(accuracy_score(data.test.labels, chosen))
    assert figures["linear_probe/class_mean/accuracy@1"] == pytest.approx(
        balanced_accuracy_score(data.test.labels, chosen)
    )
    assert 0.4 < figures["linear_probe/accuracy@1"] < 1


def test_test_images_choose_nothing():
    names = ("linear_probe/log10_c", "linear_probe/validation_accuracy")
    one, other = (evaluate_linear_probe(subject(probe_data(seed))) for seed in (9, 10))
    assert [one[name] for name in names] == [other[name] for name in names]
    assert one["linear_probe/accuracy@1"] != other["linear_probe/accuracy@1"]


def test_a_strong_penalty_that_is_worse_by_chance_does_not_end_the_search():
    generator = np.random.default_rng(13)
    labels = np.repeat(np.arange(4), 100)
    features = 0.15 * generator.normal(size=(4, 40))[labels]
    generator.normal(size=40)
    features = features + 0.5 * generator.normal(size=(400, 40))
    features[:, :4] += 6 * generator.normal(size=(400, 4))
    features = (features / np.sqrt(np.square(features).mean())).astype(np.float32)
    power, accuracy = _best_power(features, labels, seed=0)
    assert power >= -1 and accuracy > 0.6  # 1e-6 is better than 1e-4, and at chance


def test_one_image_a_class_leaves_none_to_choose_by():
    images = LabelledImages(pictures(3), torch.arange(3))
    figures = evaluate_linear_probe(subject(LabelledData(NAMES[:3], images, images)))
    assert figures["linear_probe/validation_accuracy"] is None and figures["linear_probe/log10_c"] == 0
