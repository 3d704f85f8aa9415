"""Interpolated weights: the two ends to the bit, logarithms as logarithms, and models that do not fit."""

import json
from types import SimpleNamespace

import pytest
import torch
from finished_runs import SMALL, make_run

import meru
from meru.errors import UserError
from meru.export import interpolation
from meru.export.interpolation import interpolate, mixed, read_shares, shared_weights


@pytest.fixture(scope="module")
def runs(compose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    start = make_run(folder / "start", compose("experiment=birds_meru", *SMALL), seed=1)
    tuned = compose("experiment=birds_meru", *SMALL, f"encoder.init={start}")
    return start, make_run(folder / "tuned", tuned, seed=2)


def test_the_ends_are_the_models_themselves_and_scalars_are_mixed_as_logarithms(runs, tmp_path):
    start, tuned = runs
    line = interpolate({"run": str(tuned), "shares": "0,0.25,1", "output": str(tmp_path / "out")})
    assert "0, 0.25, 1" in line
    begin, middle, end = (meru.load(tmp_path / "out" / share).model for share in ("0", "0.25", "1"))
    theirs, ours = (meru.load(run).model.state_dict() for run in (start, tuned))
    assert all(torch.equal(value, theirs[name]) for name, value in begin.state_dict().items())
    assert all(torch.equal(value, ours[name]) for name, value in end.state_dict().items())
    expected = 0.75 * theirs["curv"] + 0.25 * ours["curv"]
    assert middle.curv.item() == pytest.approx(expected.item(), rel=1e-6)
    entry = json.loads((tmp_path / "out" / "0.25" / "config.json").read_text())["interpolation"]
    assert entry == {"start": "start", "share": 0.25}


def test_one_share_of_a_named_start_is_the_folder_itself(runs, tmp_path):
    start, tuned = runs
    interpolate({"run": str(tuned), "start": str(start), "shares": "0.5", "output": str(tmp_path / "out")})
    mixture, *both = (meru.load(each).model.visual_proj.weight for each in (tmp_path / "out", start, tuned))
    torch.testing.assert_close(mixture, 0.5 * (both[0] + both[1]))


def test_each_share_is_evaluated_on_the_split_that_was_asked(runs, monkeypatch, caplog):
    asked = []

    def evaluate(pretrained, split):
        asked.append(split)
        return SimpleNamespace(figures={"text_to_image/class/recall@1": pretrained.model.curv.item()})

    task = SimpleNamespace(evaluate=evaluate, device=torch.device("cpu"))
    monkeypatch.setattr(interpolation, "_task", lambda *_: task)
    with caplog.at_level("INFO", logger="meru"):
        line = interpolate({"run": str(runs[1]), "shares": "0,1", "split": "validation"})
    curvatures = [meru.load(run).model.curv.item() for run in runs]
    best = "0" if curvatures[0] > curvatures[1] else "1"
    assert asked == ["validation"] * 2
    assert line == f"nothing written; to write a model: shares={best} output=<folder>"
    assert "best by text_to_image/class/recall@1" in caplog.text


def test_counters_and_names_of_the_run_alone_are_kept():
    begin = {"a": torch.tensor([1.0]), "n": torch.tensor(3)}
    tuned = {"a": torch.tensor([2.0]), "n": torch.tensor(5), "b": torch.tensor([7.0])}
    assert mixed(begin, tuned, 0.5) == {"a": torch.tensor([1.5]), "n": torch.tensor(5), "b": torch.tensor([7.0])}


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ({"visual.a": torch.zeros(3)}, "visual.a has shape (3,) there and (2,) in the run"),
        ({"visual.a": torch.zeros(2), "visual.b": torch.zeros(2)}, "only it has visual.b"),
        ({"classifier.weight": torch.zeros(2)}, "it has no tower in common with the run"),
        ({"visual.a": torch.zeros(2), "pixel_mean": torch.ones(3)}, "its images are normalised by another pixel_mean"),
    ],
)
def test_models_that_do_not_fit_are_one_line(begin, message):
    tuned = {"visual.a": torch.zeros(2), "pixel_mean": torch.zeros(3)}
    with pytest.raises(UserError) as caught:
        shared_weights(begin, tuned, what="start=x")
    assert str(caught.value) == f"start=x does not fit: {message}"


@pytest.mark.parametrize("words", ["", "half", "0,1.5", "-0.1", "nan", "0.5,0.5", "0,,1"])
def test_unsuitable_shares_are_one_line(words):
    with pytest.raises(UserError, match=r"^shares="):
        read_shares(words)


def test_unsuitable_arguments_are_one_line_and_leave_nothing(runs, compose, tmp_path):
    start, tuned = (str(run) for run in runs)
    other = make_run(tmp_path / "other", compose("experiment=birds_meru", *SMALL, "encoder.image.name=test_vit"))
    out = str(tmp_path / "out")
    for arguments, message in (
        ({"run": tuned}, "shares= is missing"),
        ({"run": tuned, "shares": "0"}, "give output=<folder> to write models"),
        ({"run": tuned, "shares": "0", "split": "train"}, "split=train: choose one of validation, test"),
        ({"run": tuned, "shares": "0", "output": out, "root": "x"}, "root=: only with split=validation"),
        ({"run": start, "shares": "0", "output": out}, "names no pretrained weights that it began with"),
        ({"run": tuned, "start": str(other), "shares": "0", "output": out}, "it has encoder.image.name=test_vit"),
    ):
        with pytest.raises(UserError) as caught:
            interpolate(arguments)
        assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
