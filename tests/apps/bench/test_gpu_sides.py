"""The sides of the GPU benchmark do the same work: checked on the CPU, where they all run but for the kernels."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.bench import gpu_fit, gpu_population, gpu_sides
from apps.bench.gpu_population import Population
from apps.bench.gpu_rows import GpuRow
from apps.bench.gpu_sides import CONFIG, Case, Jax, TorchFunc, build
from fitting.config import FitConfig
from fitting.fit import fit_batch
from fitting.kernels import step_torch
from fitting.kernels.task import StepTask
from fitting.schedule import learning_rates
from fitting.signals import image
from neuralfields.batch import FieldBatch
from neuralfields.spec import SIREN

ROOT = Path(__file__).resolve().parents[3]
SMALL = Case("2-9-8-2", 25, 0, 3, 4, 3)
SAMPLED = Case("3-9-1", 200, 64, 3, 4, 3)


def reference(case: Case) -> FieldBatch:
    work = build(case, case.peers)
    config = replace(CONFIG, steps=case.steps)
    ids = np.arange(case.peers, dtype=np.uint32)
    task = StepTask(work.start, work.coords, work.targets, ids, None, config, learning_rates(config))
    return step_torch.run(task).fields


@pytest.mark.parametrize("side", ["torch.func", pytest.param("jax", marks=pytest.mark.filterwarnings("default"))])
def test_peers_fit_as_the_reference_does(side: str) -> None:
    if side == "jax" and find_spec("jax") is None:
        pytest.skip("jax is not installed")
    work = build(SMALL, SMALL.peers)
    peer = Jax(work) if side == "jax" else TorchFunc(work, device="cpu")
    peer.advance(SMALL.steps)
    found = peer.parameters() if isinstance(peer, Jax) else peer.parameters
    expected = reference(SMALL)
    for name, value in expected.parameters.items():
        moved = (value - work.start.parameters[name]).abs().max()
        assert (found[name] - value).abs().max() <= 2e-3 * moved, name


@pytest.mark.parametrize("side", ["torch.func", pytest.param("jax", marks=pytest.mark.filterwarnings("default"))])
def test_peers_draw_points_that_belong_to_their_targets(side: str) -> None:
    if side == "jax" and find_spec("jax") is None:
        pytest.skip("jax is not installed")
    # Targets are the fields themselves: where point and target belong together, the loss and so the update is zero.
    work = build(SAMPLED, SAMPLED.peers)
    from neuralfields.evaluate import forward_raw

    targets = forward_raw(work.start, work.coords)
    slow = replace(CONFIG, eps=1e-3)  # what rounding leaves of the gradient stays small
    for exact in (True, False):
        same = replace(work, targets=targets if exact else targets.roll(1, dims=1))
        peer = Jax(same, slow) if side == "jax" else TorchFunc(same, device="cpu", config=slow)
        peer.advance(3)
        found = peer.parameters() if isinstance(peer, Jax) else peer.parameters
        moved = max((found[n] - v).abs().max().item() for n, v in work.start.parameters.items())
        assert (moved < 2e-6) is exact, moved


def test_cases_are_what_is_asked_for() -> None:
    names = [case.name for case in gpu_sides.CASES]
    assert names == [
        "2-32-32-1 @784",
        "2-64-64-3 @1024",
        "3-64-64-64-1 @2048 of 8192",
        "3-128-128-128-1 @2048 of 8192",
    ]
    assert gpu_sides.CASES[0].flop == 6592 * 784
    for case in gpu_sides.CASES:
        work = build(replace(case, fields=2), 2)
        assert work.coords.shape == (case.points, int(case.dims[0]))
        assert work.targets.shape[:2] == (2, case.points)


def test_sides_take_turns_and_the_first_is_the_measure() -> None:
    order: list[str] = []
    clock = {"a": 2.0, "b": 6.0}
    slices = [
        gpu_fit.Slice("triton", "tf32x3", 10, 5, lambda: order.append("a")),
        gpu_fit.Slice("torch.func", "tf32", 5, 5, lambda: order.append("b")),
    ]
    seconds = gpu_fit.take_turns(slices, 3, lambda action: [action(), clock[order[-1]]][1])
    assert order == ["a", "b", "b", "a", "a", "b"]
    ours, peer = gpu_fit.rows(SMALL, slices, seconds, {"tf32": 1e12})
    assert (ours.rate, ours.ratio, ours.note) == (pytest.approx(25.0), 1.0, "host copies included")
    assert (peer.rate, peer.ratio) == (pytest.approx(25 / 6), pytest.approx(6.0))
    assert peer.tflops == pytest.approx(SMALL.flop * 25 / 6 / 1e12)
    assert peer.share == pytest.approx(peer.tflops)


def test_a_peer_that_breaks_is_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Still:
        def __init__(self, work: object, precision: str) -> None:
            self.fields, self.precision = 3, precision

        def advance(self, steps: int) -> None:
            if self.precision == "bad":
                raise ValueError("no such precision")

    def broken(name: str, case: Case) -> Still:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(gpu_fit, "Ours", Still)
    monkeypatch.setattr(gpu_fit, "make_peer", broken)
    monkeypatch.setattr(gpu_fit, "strays", lambda case, precision: "off")
    timed = lambda action: [action(), 1.0][1]  # noqa: E731
    lines: list[str] = []
    (once,), (row,) = gpu_fit.measure(SMALL, ("tf32x3", "bad"), ("jax",), {}, 2, timed, lines.append)
    assert once == row
    assert (row.side, row.ratio) == ("triton", 1.0)
    assert capsys.readouterr().out == "2-9-8-2 @25: jax is left out: RuntimeError: no compiler\n"
    bad, stray = "bad: ValueError: no such precision", "tf32x3: off"
    assert lines == [f"fit 2-9-8-2 @25: triton, {said}" for said in (stray, bad)]
    _, (row,) = gpu_fit.measure(SMALL, ("tf32x3",), ("jax",), {}, 2, timed, lines.append, left=10.0)
    assert (row.side, row.ratio) == ("triton", 1.0)
    assert capsys.readouterr().out == "2-9-8-2 @25: jax is left out: it would take 7 s too long\n"


def test_unknown_peers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"peer='keras': expected one of torch\.func"):
        gpu_fit.make_peer("keras", SMALL)
    assert set(gpu_fit.usable_peers()) == set(gpu_fit.PEERS)


def test_a_population_is_fitted_from_file_to_store(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", x_train=pixels[:4], y_train=np.arange(4), x_test=pixels[4:], y_test=np.arange(2))
    population = Population("some", "some.npz", "siren-mnist", 30, ("train", "test"), (8, 8, 1), 6)
    ((row,),) = gpu_population.measure(population, tmp_path, ("fp32",), {"fp32": 1e12}, backend="torch")
    assert (row.fields, row.steps, row.case) == (6, 30, "some, 2-32-32-1 @64, siren-mnist")
    assert row.seconds is not None
    assert row.rate == pytest.approx(6 / row.seconds)
    assert row.psnr is not None
    assert 5 < row.psnr < 40
    with pytest.raises(ValueError, match="has 6 images of"):
        next(gpu_population.measure(replace(population, count=7), tmp_path, ("fp32",), {}, backend="torch"))
    with pytest.raises(FileNotFoundError, match=r"expected a folder with other\.npz"):
        next(gpu_population.measure(replace(population, file="other.npz"), tmp_path, ("fp32",), {}, backend="torch"))


def test_a_population_that_ends_too_low_is_told() -> None:
    row = GpuRow(part="population", case="c", side="triton", precision="mixed", fields=9, steps=1, unit="i", psnr=30.0)
    best, other = replace(row, side="torch.func", precision="fp32"), replace(row, precision="bf16", psnr=1.0)
    assert gpu_population.shortfalls([replace(row, side="x"), replace(best, psnr=30.4), row, other]) == ()
    (line,) = gpu_population.shortfalls([replace(best, psnr=30.6), row, other])
    assert line == "population c: 30.00 dB in mixed, float32 torch 30.60: expected at most 0.5 dB less"


def test_a_population_may_end_where_its_recipe_says(tmp_path: Path) -> None:
    pixels = np.full((3, 8, 8, 3), 90, np.uint8)
    np.savez(tmp_path / "some.npz", x_train=pixels, y_train=np.arange(3))
    population = Population("some", "some.npz", "implicit-zoo-cifar10", 600, ("train",), (8, 8, 3), 3)
    ((row,),) = gpu_population.measure(replace(population, stops=True), tmp_path, ("fp32",), {}, backend="torch")
    assert row.case == "some, 2-64-64-3 @64, implicit-zoo-cifar10, to 30 dB"
    assert row.note.endswith("; 500 steps on average")  # flat pictures are there by the least that the recipe takes
    assert row.psnr is not None
    assert row.psnr > 30
    assert row.tflops == pytest.approx(population.work.flop * 3 * 500 / row.seconds / 1e12)


def test_the_float32_reference_of_a_population_is_torchs_fit() -> None:
    pixels = torch.rand(3, 8, 8, 1, generator=torch.Generator().manual_seed(0)).numpy()
    sample = image.from_array(pixels)
    spec, config = SIREN(2, 1, hidden=(8, 8)), FitConfig(steps=20, lr=1e-3)
    expected = fit_batch(sample, spec, config, backend="torch").quality["psnr"]
    found = sample.quality(gpu_population.torch_fit(sample, spec, config, device="cpu"))["psnr"]
    assert np.abs(found - expected).max() < 1e-3
    with pytest.raises(ValueError, match="expected constant, plain adam"):
        gpu_population.torch_fit(sample, spec, replace(config, schedule="cosine"), device="cpu")


def test_the_small_fits_for_the_sanitizer_run_in_the_interpreter(in_the_interpreter) -> None:
    code = (
        "from apps.bench import gpu_small\n"
        "from apps.bench.gpu_sides import Case\n"
        "gpu_small.CASES = (Case('2-17-3', 37, 0, 2, 2, 1), Case('3-16-1', 70, 21, 2, 2, 1))\n"
        "from apps.bench import gpu, gpu_fit, gpu_population\n"
        "gpu_fit._FEW, gpu_fit._FEW_STEPS = 2, 3\n"
        "assert gpu_fit.strays(gpu_small.CASES[0], 'fp32') is None\n"
        "gpu_fit.STRAY['fp32'] = 0.0\n"
        "assert 'off by' in gpu_fit.strays(gpu_small.CASES[0], 'fp32')\n"
        "gpu.compile_case(gpu_population.Population('p', '', 'siren-mnist', 9, (), (3, 3, 1), 9), 'mixed')\n"
        "raise SystemExit(gpu_small.main())\n"
    )
    assert "2 cases are finite" in in_the_interpreter(code)
