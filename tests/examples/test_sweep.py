"""The sweep for Weights & Biases: every value composes, and its metric is logged."""

import pytest
import yaml

from meru.configuration import check, validation_figures
from meru.configuration.overrides import readable, typed_keys
from meru.files import PROJECT

SWEEP = yaml.safe_load((PROJECT / "examples" / "sweep.yaml").read_text(encoding="utf-8"))
PARAMETERS = SWEEP["parameters"]
FIXED = [f"{key}={of['value']}" for key, of in PARAMETERS.items() if "value" in of]


def values(of):
    """All values of a list, the ends of a range."""
    return of.get("values") or [of[name] for name in ("value", "min", "max") if name in of]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, of in PARAMETERS.items() for value in values(of)])
def test_every_value_composes(key, value, compose):
    assert not isinstance(value, str) or key in ("experiment", "logger")  # 1e-4 would be a string in YAML
    overrides = readable([*FIXED, f"{key}={value}"] if key not in ("experiment", "logger") else FIXED, command="train")
    config = compose(*overrides)
    check(config, command="train", typed=typed_keys(overrides))


def test_the_metric_is_a_validation_figure_that_selects_models():
    kind, _, name = SWEEP["metric"]["name"].partition("/")
    assert kind == "validation" and name in validation_figures(kind="class") and SWEEP["metric"]["goal"] == "maximize"


def test_the_agent_starts_training_with_hydra_overrides():
    assert SWEEP["command"] == ["python", "scripts/train.py", "${args_no_hyphens}"]
    assert (PROJECT / SWEEP["command"][1]).is_file()
    assert SWEEP["method"] in ("bayes", "grid", "random")
