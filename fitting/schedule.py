"""Learning rates, computed once per fit so that every backend uses the same numbers."""

import numpy as np

from fitting.config import FitConfig


def learning_rates(config: FitConfig) -> np.ndarray:
    """Return the learning rate of every step: float32 (steps,).

    Warm-up: lr (s + 1) / warmup for s < warmup. Then constant, or cosine: lr_end + (lr - lr_end) (1 + cos(pi t)) / 2
    with t from 0 to 1 over the remaining steps and lr_end = lr_final * lr.
    """
    step = np.arange(config.steps, dtype=np.float64)
    rate = np.full(config.steps, config.lr)
    if config.schedule == "cosine":
        t = (step - config.warmup) / max(1, config.steps - config.warmup)
        end = config.lr * config.lr_final
        rate = end + (config.lr - end) * 0.5 * (1.0 + np.cos(np.pi * np.clip(t, 0.0, 1.0)))
    if config.warmup:
        rate = np.where(step < config.warmup, config.lr * (step + 1.0) / config.warmup, rate)
    return rate.astype(np.float32)
