"""PSNR and SSIM of views against their definitions."""

import math

import numpy as np
import pytest
import torch

from fitting.view_metrics import view_psnr, view_ssim


def test_psnr_is_of_the_clipped_picture(generator):
    truth = torch.rand(12, 13, 3, generator=generator)
    off = truth + 0.1 * (1 - 2 * (truth > 0.5).float())
    assert view_psnr(off, truth) == pytest.approx(20.0, abs=1e-4)
    assert view_psnr(truth + 5.0, torch.ones_like(truth)) == 150.0
    assert view_psnr(truth.numpy(), truth) == 150.0


def test_ssim_is_one_for_equal_pictures_and_falls_with_their_structure(generator):
    truth = torch.rand(24, 20, 3, generator=generator)
    assert view_ssim(truth, truth) == pytest.approx(1.0)
    noise = torch.randn(24, 20, 3, generator=generator)
    worse = [view_ssim(truth + scale * noise, truth) for scale in (0.02, 0.1, 0.5)]
    assert 1.0 > worse[0] > worse[1] > worse[2]


def test_ssim_of_flat_pictures_is_its_luminance_term():
    first, second = np.full((16, 16, 3), 0.2), np.full((16, 16, 3), 0.6)
    c1 = 0.01**2
    assert view_ssim(first, second) == pytest.approx((2 * 0.12 + c1) / (0.04 + 0.36 + c1), rel=1e-6)
    assert math.isnan(view_ssim(first[:8], second[:8]))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"picture is \(4, 5, 3\): expected \(H, W, 3\) like truth, \(5, 4, 3\)"):
        view_psnr(np.zeros((4, 5, 3)), np.zeros((5, 4, 3)))
