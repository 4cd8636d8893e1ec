"""FitConfig refuses what it cannot do, by name, and survives JSON."""

import pytest

from fitting.config import FitConfig
from fitting.fit import with_overrides


def test_json_round_trip():
    config = FitConfig(steps=12, lr=0.1, init="random", target_psnr=40.0)
    assert FitConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("eps", float("inf")),
        ("weight_decay", float("inf")),
        ("lr_final", float("inf")),
        ("target_psnr", float("inf")),
        ("eikonal", float("inf")),
        ("schedule", "linear"),
        ("optimizer", "sgd"),
        ("loss", "huber"),
        ("batch", -1),
        ("beta2", 1.0),
        ("seed", 2**32),
        ("seed", -1),
        ("warmup", 2000),
        ("dtype", "float16"),
        ("threads", -1),
        ("target_psnr", -3.0),
    ],
)
def test_a_bad_value_is_refused_with_its_name(setting, value):
    with pytest.raises(ValueError, match=f"^{setting}="):
        FitConfig(**{setting: value})


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="unknown settings learning_rate"):
        with_overrides(FitConfig(), {"learning_rate": 0.1})
    with pytest.raises(ValueError, match="unknown keys"):
        FitConfig.from_json({"step": 3})
