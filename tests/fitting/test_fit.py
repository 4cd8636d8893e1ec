"""The laws of a fit: independence of batch and restart, the stop rule, and real digits that really converge."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import neuralfields as nf
from fitting import FitConfig, fit, fit_batch, images
from fitting.fit import statistics
from neuralfields import HashField, HashGrid
from neuralfields.evaluate import evaluate
from neuralfields.kernels import evaluate_tcnn

SPEC = nf.SIREN(2, 1, hidden=(16, 16), w0=15.0)
BACKENDS = ["torch", pytest.param("native", marks=pytest.mark.native)]


@pytest.fixture(scope="module")
def digits():
    return images.load("digits", limit=24)


def digest(folder: Path) -> dict[str, str]:
    """Hash of every file of a store that must not depend on how the fit was run."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".parquet"))
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [0, 16])
@pytest.mark.parametrize("init", ["shared", "random"])
def test_a_field_alone_equals_the_field_in_a_batch(digits, backend, batch, init):
    config = FitConfig(steps=20, lr=2e-3, batch=batch, init=init, backend=backend)
    together = fit_batch(digits, SPEC, config).fields.flat()
    alone = fit_batch(digits.select(slice(7, 8)), SPEC, config).fields.flat()
    if backend == "native":
        assert torch.equal(alone[0], together[7])
    else:  # torch sums in another order for another batch size: equal within rounding
        torch.testing.assert_close(alone[0], together[7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_digits_converge(digits, backend):
    result = fit_batch(digits, SPEC, FitConfig(steps=400, lr=5e-3, backend=backend))
    assert result.quality["psnr"].min() > 30
    assert result.curves[:, 0].mean() > 50 * result.curves[:, -1].mean()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_field_stops_at_the_target_and_no_sooner(digits, backend):
    config = FitConfig(steps=2000, lr=5e-3, target_psnr=25.0, backend=backend, curve_every=10)
    result = fit_batch(digits, SPEC, config)
    assert (result.steps < 2000).all()
    assert len(set(result.steps.tolist())) > 1
    assert (result.quality["psnr"] >= 24.99).all()
    first = int(result.steps[0])
    before = fit_batch(digits.select(slice(0, 1)), SPEC, FitConfig(steps=first - 1, lr=5e-3, backend=backend))
    raw = evaluate(before.fields, digits.coords(SPEC))[0]
    mse = (raw - digits.targets(SPEC, slice(0, 1))[0]).square().mean()
    assert -10 * torch.log10(mse) < 25.0
    assert np.isnan(result.curves[0, -1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_min_steps_hold_the_stop_rule_back(digits, backend):
    config = FitConfig(steps=300, lr=5e-3, target_psnr=15.0, min_steps=120, backend=backend)
    result = fit_batch(digits.select(slice(0, 4)), SPEC, config)
    assert (result.steps >= 120).all()
    assert (result.steps < 300).all()


def test_the_store_holds_what_was_fitted(digits, tmp_path):
    store = fit(digits, SPEC, steps=30, lr=2e-3, shard=10, backend="torch", out=tmp_path / "run")
    assert len(store) == 24
    assert store.complete
    assert store.spec == SPEC
    np.testing.assert_array_equal(store.labels, digits.labels)
    np.testing.assert_array_equal(store.ids, digits.ids)
    again = nf.open(tmp_path / "run")
    assert torch.equal(again[0:24].flat(), store[0:24].flat())
    picture = nf.render.image(again[3], digits.shape)
    mse = (picture[0] - digits.values(slice(3, 4))[0]).square().mean()
    assert abs(-10 * torch.log10(mse).item() - again.metrics.psnr[3]) < 1e-3


def test_fitting_again_does_nothing_and_other_settings_are_refused(digits, tmp_path):
    fit(digits, SPEC, steps=5, backend="torch", out=tmp_path)
    before = digest(tmp_path)
    fit(digits, SPEC, steps=5, backend="torch", out=tmp_path)
    assert digest(tmp_path) == before
    with pytest.raises(ValueError, match="steps"):
        fit(digits, SPEC, steps=6, backend="torch", out=tmp_path)
    assert digest(tmp_path) == before


def test_other_pixels_under_the_same_name_are_refused(digits, tmp_path):
    fit(digits, SPEC, steps=5, backend="torch", out=tmp_path)
    other = images.from_array(1.0 - digits.pixels, digits.labels, source=digits.source)
    with pytest.raises(ValueError, match="signal"):
        fit(other, SPEC, steps=5, backend="torch", out=tmp_path)


KILLED = """
import sys
import neuralfields as nf
from fitting import fit, images
digits = images.load("digits", limit=24)
spec = nf.SIREN(2, 1, hidden=(16, 16), w0=15.0)
fit(digits, spec, steps=int(sys.argv[3]), lr=1e-4, shard=4, curve_every=100, backend=sys.argv[2], out=sys.argv[1])
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_fit_ends_byte_for_byte_as_one_that_was_not(tmp_path, backend):
    command = [sys.executable, "-c", KILLED]
    how = [backend, {"torch": "400", "native": "30000"}[backend]]  # each long enough to be killed in the middle
    subprocess.run([*command, str(tmp_path / "whole"), *how], check=True)
    torn = tmp_path / "torn"
    process = subprocess.Popen([*command, str(torn), *how])
    while not any(torn.glob("shard-*")) and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not nf.open(torn).complete, "the fit ended before it could be killed"
    subprocess.run([*command, str(torn), *how], check=True)
    assert digest(torn) == digest(tmp_path / "whole")


def test_starting_from_a_stored_field(digits, tmp_path):
    store = fit(digits.select(slice(0, 2)), SPEC, steps=200, lr=5e-3, backend="torch", out=tmp_path / "first")
    start = f"{tmp_path / 'first'}#1"
    result = fit_batch(digits.select(slice(1, 2)), SPEC, steps=1, lr=1e-9, init=start, backend="torch")
    torch.testing.assert_close(result.fields.flat(), store[1].flat(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "words"),
    [("#2", "expected a field of that store, #0 to #1"), ("#one", "expected a field of that store, #0 to #1")],
)
def test_a_start_that_its_store_does_not_have_is_refused(digits, tmp_path, field, words):
    fit(digits.select(slice(0, 2)), SPEC, steps=1, out=tmp_path / "first")
    with pytest.raises(ValueError, match=words):
        fit_batch(digits, SPEC, steps=1, init=f"{tmp_path / 'first'}{field}")


def test_a_fit_does_not_go_on_from_another_start(digits, tmp_path):
    first, out = tmp_path / "first", tmp_path / "out"
    for seed in (0, 1):
        fit(digits.select(slice(0, 1)), SPEC, steps=1, seed=seed, out=first)
        if seed == 0:
            fit(digits, SPEC, steps=1, init=f"{first}#0", out=out)
            shutil.rmtree(first)
    with pytest.raises(ValueError, match="init_sha256"):
        fit(digits, SPEC, steps=1, init=f"{first}#0", out=out)


@pytest.mark.parametrize(
    ("spec", "settings"), [(nf.SIREN(3, 1), {}), (SPEC, {"eikonal": 0.1}), (SPEC, {"loss": "bce"})], ids=str
)
def test_what_is_refused_leaves_no_store_behind(digits, tmp_path, spec, settings):
    with pytest.raises(ValueError, match="expected"):
        fit(digits, spec, steps=1, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_pictures_are_fitted_by_losses_of_values(digits):
    with pytest.raises(ValueError, match="loss='bce': expected mse or l1"):
        fit_batch(digits, SPEC, steps=1, loss="bce")


def test_fields_with_broken_weights_are_counted(digits, tmp_path):
    store = fit(digits.select(slice(0, 3)), SPEC, steps=2, lr=1e38, backend="torch", out=tmp_path)
    assert store.statistics["diverged"] == np.isnan(store.column("psnr")).sum() > 0
    figures = {"psnr_heldout": np.array([30.0, 31.0]), "ssim_heldout": np.full(2, np.nan)}
    assert statistics(iter([store[0:2]]), figures, np.ones(2))["diverged"] == 2
    healthy = fit(digits.select(slice(0, 2)), SPEC, steps=1, out=tmp_path / "healthy")
    assert statistics(iter([healthy[0:2]]), figures, np.ones(2))["diverged"] == 0


def test_a_backend_that_cannot_run_the_work_is_refused(digits):
    spec = nf.FieldSpec(in_dim=2, out_dim=1, hidden=(16,), activation="tanh")
    with pytest.raises(ValueError, match=r"backend='native' cannot run this: .*tanh"):
        fit_batch(digits, spec, FitConfig(steps=1, backend="native"))
    assert fit_batch(digits, spec, FitConfig(steps=1)).backend == "torch"
    with pytest.raises(ValueError, match=r"backend='torch' cannot run this: precision='tf32' \(it has fp32\)"):
        fit_batch(digits, spec, FitConfig(steps=1, backend="torch", precision="tf32"))
    with pytest.raises(ValueError, match="backend='cuda': expected one of"):
        fit_batch(digits, spec, FitConfig(steps=1, backend="cuda"))


def test_channels_must_fit(digits):
    with pytest.raises(ValueError, match="out_dim=3"):
        fit_batch(digits, nf.SIREN(2, 3), FitConfig(steps=1))


@pytest.mark.parametrize("activation", ["sine", "relu", "tanh", "gauss", "gabor", "finer"])
def test_every_activation_learns_on_the_reference(digits, activation):
    spec = nf.FieldSpec(
        in_dim=2,
        out_dim=1,
        hidden=(32, 32),
        activation=activation,
        w0_first=5.0,
        w0_hidden=5.0,
        width=2.0,
        encoding=nf.Positional(3),
    )
    result = fit_batch(digits.select(slice(0, 3)), spec, FitConfig(steps=150, lr=5e-3, backend="torch"))
    assert result.quality["psnr"].min() > 18
    assert result.curves[:, 0].mean() > 3 * result.curves[:, -1].mean()


def test_progress_ends_at_the_total_and_never_goes_back(digits):
    seen = []
    fit_batch(digits, SPEC, FitConfig(steps=600, lr=1e-3, backend="torch"), progress=seen.append)
    assert seen
    done = [p.steps_done for p in seen]
    assert done == sorted(done)
    assert done[-1] <= seen[-1].steps_total == 600 * 24
    assert all(np.isfinite(p.psnr) for p in seen)


@pytest.mark.skipif(evaluate_tcnn.missing() is None, reason="says what happens without tiny-cuda-nn")
def test_tcnn_is_refused_with_the_line_that_installs_it(digits):
    spec = HashField(2, 1, hidden=(8,), encoding=HashGrid(levels=2, log2_size=6, base=4))
    with pytest.raises(ValueError, match=r"^backend='tcnn' cannot run this: [^\n]*(pip install git|no CUDA)[^\n]*$"):
        fit_batch(digits.select(slice(0, 1)), spec, FitConfig(steps=1, backend="tcnn"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_triton_is_refused_in_one_line_and_auto_takes_another(digits):
    with pytest.raises(ValueError, match=r"^backend='triton' cannot run this: .*(not installed|no CUDA device)[^\n]*$"):
        fit_batch(digits, SPEC, FitConfig(steps=1, backend="triton"))
    assert fit_batch(digits, SPEC, FitConfig(steps=1)).backend in ("native", "torch")
