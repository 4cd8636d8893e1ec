"""Quality of fitted fields."""

import numpy as np
import torch
from torch import Tensor

from fitting.losses import mse_to_psnr
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import evaluate


@torch.no_grad()
def psnr(fields: FieldBatch, coords: Tensor, values: Tensor) -> Tensor:
    """PSNR of every field in dB: coords (B, I), values (N, B, C) in [0, 1] -> (N,).

    Data range 1, rendered values clipped to [0, 1], one figure per field; at most 150 dB. NaN weights give NaN.
    """
    mse = [
        (evaluate(fields[i : i + 64], coords).clamp_(0.0, 1.0) - values[i : i + 64].to(coords)).square().mean((1, 2))
        for i in range(0, len(fields), 64)
    ]
    return mse_to_psnr(torch.cat(mse)).float()


def summary(quality: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean, median and 5th percentile of every figure over its finite entries.

    quality: name -> (N,), such as psnr -> psnr_mean, psnr_median and psnr_p5.
    """
    figures: dict[str, float] = {}
    for name, values in quality.items():
        finite = values[np.isfinite(values)]
        figures[f"{name}_mean"] = float(finite.mean(dtype=np.float64)) if finite.size else float("nan")
        figures[f"{name}_median"] = float(np.median(finite)) if finite.size else float("nan")
        figures[f"{name}_p5"] = float(np.percentile(finite, 5)) if finite.size else float("nan")
    return figures
