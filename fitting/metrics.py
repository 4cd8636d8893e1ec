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


def summary(psnr_db: np.ndarray) -> dict[str, float]:
    """Mean, median and 5th percentile of PSNR over the finite entries, and how many were not finite."""
    finite = psnr_db[np.isfinite(psnr_db)]
    if not finite.size:
        return {**dict.fromkeys(("psnr_mean", "psnr_median", "psnr_p5"), float("nan")), "diverged": len(psnr_db)}
    return {
        "psnr_mean": float(finite.mean(dtype=np.float64)),
        "psnr_median": float(np.median(finite)),
        "psnr_p5": float(np.percentile(finite, 5)),
        "diverged": int(len(psnr_db) - finite.size),
    }
