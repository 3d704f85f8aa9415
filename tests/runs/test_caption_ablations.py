"""The ablations of wrong and generated captions: every row is a valid run of what its name says."""

import pytest

from meru.configuration import check
from meru.configuration.composing import compose
from meru.configuration.overrides import typed_keys
from meru.runs.ablation_file import read_ablation

FILES = ("caption_noise", "caption_noise_persons", "descriptions")


def configurations(name):
    ablation = read_ablation(name)
    assert ablation.seeds == [0, 1, 2, 3, 4]
    for title, variant in {**ablation.variants, **ablation.starts}.items():
        words = [f"experiment={ablation.experiment}", "encoder.image.weights=w", *ablation.overrides]
        if ablation.experiment == "pedestrians_gahr":
            words.remove("encoder.image.weights=w")
        words += variant.overrides
        config, _ = compose(words)
        config.pop("hydra", None)
        check(config, command="train", typed=typed_keys(words))
        yield title, config


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_a_valid_configuration_of_its_name(name):
    for title, config in configurations(name):
        exponent = config.loss.semantic_margin if title.startswith(("GAHR", "baseline")) else config.loss.contrastive
        assert ("robust" in title) == (exponent.robust_exponent > 0)
        share = {"20 %": 0.2, "50 %": 0.5}
        assert config.data.caption_noise == next((value for text, value in share.items() if text in title), 0.0)
        assert config.data.caption_noise_kind == ("nearest" if "nearest" in title else "symmetric")
        if "CLIP" in title or "MERU" in title:
            assert config.model._target_.endswith("CLIP" if "CLIP" in title else "MERU")
        words = {"names": "names", "attributes": "attributes", "sentences": "sentences", "one own": "first"}
        source = next((file for text, file in words.items() if text in title), None)
        assert config.data.captions_from == (source and f"captions/{source}.json")
        if source:
            assert config.data.captions_mode == ("mix" if "half" in title else "replace")


def test_persons_start_from_others_with_true_captions():
    (start,) = (config for title, config in configurations("caption_noise_persons") if title == "start")
    assert start.data.caption_noise == 0 and start.data.load.seed == 1
    assert start.data.root == "data/pedestrians_others"
