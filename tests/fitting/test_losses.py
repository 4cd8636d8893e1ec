"""Losses and PSNR against their formulas written out in numpy."""

import numpy as np
import torch

from fitting.losses import mse_to_psnr, per_field, psnr_to_mse, surface_terms, value_mse


def test_losses_follow_their_formulas(generator):
    raw = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)
    target = torch.rand(3, 5, 2, generator=generator, dtype=torch.float64)
    y, t = raw.numpy(), target.numpy()
    expected = {
        "mse": ((y - t) ** 2).mean((1, 2)),
        "l1": np.abs(y - t).mean((1, 2)),
        "bce": (np.log1p(np.exp(y)) - t * y).mean((1, 2)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(per_field(name, raw, target).numpy(), value, rtol=1e-12)


def test_surface_terms_follow_their_formulas(generator):
    gradient = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    normals = torch.nn.functional.normalize(torch.randn(2, 6, 3, generator=generator, dtype=torch.float64), dim=-1)
    clipped, on_surface = torch.arange(6) % 2 == 0, torch.arange(6) < 2
    eikonal, direction = surface_terms(gradient, clipped.expand(2, 6), normals, on_surface.expand(2, 6))
    g, n = gradient.numpy(), normals.numpy()
    length = np.linalg.norm(g, axis=-1)
    np.testing.assert_allclose(eikonal, ((length - 1) ** 2)[:, 1::2].mean(1), rtol=1e-12)
    np.testing.assert_allclose(direction, (1 - (g * n).sum(-1) / length)[:, :2].mean(1), rtol=1e-12)
    nothing = torch.zeros(2, 6, dtype=torch.bool)
    assert surface_terms(gradient, ~nothing, normals, nothing)[0].tolist() == [0, 0]


def test_value_mse_scales_every_channel():
    raw, target = torch.tensor([[[1.0, 1.0]]]), torch.zeros(1, 1, 2)
    assert value_mse(raw, target, (2.0, 4.0)).item() == (4.0 + 16.0) / 2


def test_psnr_and_mse_are_inverse_and_zero_means_never():
    assert psnr_to_mse(0.0) == 0.0
    assert abs(mse_to_psnr(torch.tensor(psnr_to_mse(40.0))).item() - 40.0) < 1e-4
    assert mse_to_psnr(torch.tensor(0.0)).item() == 150.0
    assert torch.isnan(mse_to_psnr(torch.tensor(float("nan"))))
