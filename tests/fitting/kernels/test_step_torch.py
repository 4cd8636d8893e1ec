"""The reference step on trained encodings: it learns, in any batch, and its stores read back the same."""

from pathlib import Path

import pytest
import torch

import neuralfields as nf
from fitting import FitConfig, fit, fit_batch, images
from fitting.kernels import step_tcnn, step_torch, step_triton
from fitting.kernels.task import StepTask
from fitting.schedule import learning_rates
from neuralfields.evaluate import encode

GRID = nf.HashField(2, 1, hidden=(16,), encoding=nf.HashGrid(levels=4, log2_size=6, base=2, scale=1.6))
CONFIG = FitConfig(steps=60, lr=1e-2, backend="torch", curve_every=5)


@pytest.fixture(scope="module")
def digits():
    return images.load("digits", limit=6)


@pytest.mark.parametrize("batch", [0, 32])
def test_a_short_fit_learns_grid_and_layers(digits, batch: int) -> None:
    config = FitConfig(**{**CONFIG.__dict__, "batch": batch})
    result = fit_batch(digits, GRID, config)
    assert (result.curves[:, -1] < 0.4 * result.curves[:, 0]).all()
    start = nf.inits.initial(GRID, digits.ids, config.init, config.seed)
    for name, value in result.fields.parameters.items():
        moved = (value - start.parameters[name]).abs().flatten(1).max(1).values
        assert bool((moved > 1e-2).all()), name
    assert float(result.fields.parameters["encoding.table"].flatten(1).std(0).max()) > 0.01  # each field its own


@pytest.mark.parametrize("batch", [0, 16])
@pytest.mark.parametrize("init", ["shared", "random"])
def test_a_field_alone_equals_the_field_in_a_batch(digits, batch: int, init: str) -> None:
    config = FitConfig(**{**CONFIG.__dict__, "steps": 5, "batch": batch, "init": init, "dtype": "float64"})
    together = fit_batch(digits, GRID, config).fields.flat()
    alone = fit_batch(digits.select(slice(3, 4)), GRID, config).fields.flat()
    torch.testing.assert_close(alone[0], together[3], rtol=1e-7, atol=1e-9)


def test_a_store_gives_the_same_fields_and_pictures(digits, tmp_path: Path) -> None:
    store = fit(digits, GRID, CONFIG, out=tmp_path / "grids", shard=4)
    assert store.spec == GRID
    expected = fit_batch(digits, GRID, CONFIG).fields
    opened = nf.open(tmp_path / "grids")
    for name, value in opened[0:6].parameters.items():
        torch.testing.assert_close(value, expected.parameters[name], rtol=1e-3, atol=1e-4)
    pictures = nf.render.image(opened[0:6], (8, 8))
    assert torch.equal(pictures, nf.render.image(store[0:6], (8, 8)))
    assert float(opened.metrics.psnr.min()) > 15


def test_triton_refuses_trained_encodings(digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_triton, "missing", lambda: None)
    with pytest.raises(ValueError, match=r"backend='triton' cannot run this: encoding=HashGrid.*dense layers only"):
        fit_batch(digits, GRID, FitConfig(steps=1, backend="triton"))


def test_radiance_fields_are_refused() -> None:
    reason = step_torch.unsupported(nf.NeRF(), CONFIG)
    assert reason is not None
    assert "view head" in reason


@pytest.mark.parametrize("batch", [0, 32])
def test_the_tcnn_step_is_the_same_but_for_who_encodes(digits, batch: int) -> None:
    config = FitConfig(**{**CONFIG.__dict__, "steps": 8, "batch": batch})
    one = digits.select(slice(2, 3))
    points = one.points(GRID)
    start = nf.inits.initial(GRID, one.ids)
    task = StepTask(start, points.coords, points.targets, one.ids, None, config, learning_rates(config))
    calls = []

    def encoder(fields, coords):
        calls.append(tuple(coords.shape))
        return encode(fields, coords)

    expected, found = step_torch.run(task), step_tcnn.run(task, encoder=encoder)
    torch.testing.assert_close(found.fields.flat().cpu(), expected.fields.flat(), rtol=1e-4, atol=1e-5)
    assert set(calls) == {(batch or 64, 2)}
