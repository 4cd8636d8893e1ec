"""Quality of rendered views: PSNR and SSIM against photographs that were held out of the fit."""

import numpy as np
from torch import Tensor

# Window of the structural similarity: 11 pixels wide, a Gaussian of 1.5 cut at 3.5 standard deviations.
_WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
_SMALLEST = 11


def view_psnr(picture: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> float:
    """PSNR of one view in dB: -10 log10(mean squared error), data range 1, the picture clipped to [0, 1], at most 150.

    picture, truth (H, W, 3). Raises ValueError when their shapes differ.
    """
    error = np.square(_values(picture, truth) - np.asarray(truth, np.float64)).mean()
    return float(-10.0 * np.log10(max(error, 1e-15)))


def view_ssim(picture: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> float:
    """Structural similarity of one view, mean over pixels and channels, data range 1, Gaussian window of 1.5 pixels.

    picture, truth (H, W, 3), at least 11 pixels on each side, else NaN. Wang et al., "Image quality assessment: from
    error visibility to structural similarity", TIP 2004.
    """
    from skimage.metrics import structural_similarity

    clipped = _values(picture, truth)
    if min(clipped.shape[:2]) < _SMALLEST:
        return float("nan")
    similarity = structural_similarity(clipped, np.asarray(truth, np.float64), channel_axis=-1, **_WINDOW)
    return float(similarity)  # pyright: ignore[reportArgumentType]


def _values(picture: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> np.ndarray:
    """The picture in double precision, clipped to [0, 1]."""
    if picture.shape != truth.shape or truth.ndim != 3:
        raise ValueError(f"picture is {tuple(picture.shape)}: expected (H, W, 3) like truth, {tuple(truth.shape)}")
    return np.clip(np.asarray(picture, np.float64), 0.0, 1.0)
