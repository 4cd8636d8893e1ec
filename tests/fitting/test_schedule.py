"""Learning rates: the formula, its ends, and warm-up."""

import numpy as np

from fitting.config import FitConfig
from fitting.schedule import learning_rates


def test_constant_is_constant():
    np.testing.assert_array_equal(learning_rates(FitConfig(steps=7, lr=0.5)), np.full(7, 0.5, np.float32))


def test_cosine_starts_at_lr_falls_monotonically_and_ends_near_lr_final():
    rate = learning_rates(FitConfig(steps=100, lr=2.0, schedule="cosine", lr_final=0.1))
    assert rate[0] == 2.0
    assert (np.diff(rate) < 0).all()
    assert 0.2 < rate[-1] < 0.21


def test_warmup_rises_linearly_to_lr_then_follows_the_schedule():
    rate = learning_rates(FitConfig(steps=20, lr=1.0, schedule="cosine", warmup=5))
    np.testing.assert_allclose(rate[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-6)
    assert rate[5] == 1.0
    assert (np.diff(rate[5:]) < 0).all()
