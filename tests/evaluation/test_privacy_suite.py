"""`suite=privacy` and `data.hidden_heads` on a tiny run of drawn persons."""

import json
from pathlib import Path

import pytest
import torch

from meru.errors import UserError
from meru.evaluation.privacy import format_privacy, privacy_figure
from meru.runs.evaluate import evaluate_run
from meru.runs.train import train
from meru.tasks.data import load_data, load_discovery_data


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("persons")
    return [
        f"data.root={folder / 'pedestrians'}", f"data.cache={folder / 'cache'}", "+data.load.identities=6",
        "+data.load.images_per_identity=2", "data.workers=0",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(compose, words, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "hidden"
    small = (
        "model=meru", "encoder=small", "encoder.image.image_size=32", "encoder.text.architecture=L1_W16_A2",
        "trainer.epochs=1", "data.batch_size=4", "logger=none", "evaluation.attention_pictures=0", "data=pedestrians",
        "data.hidden_heads=cover", "experiment=birds_meru", "evaluation.figures=null",
    )  # fmt: skip
    train(compose(*small, *words, f"folder={folder}"), device=torch.device("cpu"))
    return folder


def test_a_run_with_hidden_heads_reads_other_files_in_every_split(compose, words):
    open_data, closed = (
        load_data(compose("experiment=pedestrians_gahr", *words, f"data.hidden_heads={how}"))
        for how in ("null", "blur")
    )
    for split in ("train", "validation", "test"):
        pairs = list(zip(getattr(open_data, split), getattr(closed, split), strict=True))
        assert all(one.path != other.path and one.captions == other.captions for one, other in pairs)


def test_the_suite_compares_visible_with_hidden_heads_on_a_run_trained_without(compose, run, caplog):
    with caplog.at_level("INFO", logger="meru"):
        figures = evaluate_run(compose(f"run={run}", "suite=privacy", "workers=0", name="evaluate"))
    assert "trained with data.hidden_heads=cover" in caplog.text and "images, heads blurred" in caplog.text
    for row in ("visible", "blur", "cover", "elsewhere"):
        assert 0 <= figures[f"{row}/text_to_image/identity/recall@1"] <= 1
        assert figures[f"{row}/text_to_image/identity/chance_recall@1"] == pytest.approx(0.5)  # two test persons
    assert len({figures[f"{row}/radius"] for row in ("visible", "blur", "cover", "elsewhere")}) == 4
    assert json.loads((run / "privacy.json").read_text()) == figures and (run / "privacy.png").is_file()
    assert "as much covered elsewhere" in format_privacy(figures, "test split") and privacy_figure(figures).axes
    # The usual figures of this run are those with covered heads.
    usual = evaluate_run(compose(f"run={run}", "suite=persons", "workers=0", name="evaluate"))
    assert usual["text_to_image/identity/mean_average_precision"] == pytest.approx(
        figures["cover/text_to_image/identity/mean_average_precision"]
    )


def test_discovery_does_not_hide_heads(compose, tmp_path):
    config = compose("experiment=birds_simgcd", f"data.root={tmp_path}", "data.hidden_heads=blur")
    with pytest.raises(UserError, match="data.hidden_heads=blur hides the heads of images with captions only"):
        load_discovery_data(config)
