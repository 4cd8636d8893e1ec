"""Laws of the streamed CUDA fitting kernel; test_step_triton_streamed.py runs this file under the interpreter."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from fitting.kernels import step_torch, step_triton, triton_lanes, triton_streamed
from fitting.kernels.task import StepTask
from fitting.losses import per_field
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw
from tests.fitting.kernels import triton_laws
from tests.fitting.kernels.triton_laws import FLOOR, in_double, rms


@dataclass(frozen=True)
class Case(triton_laws.Case):
    points: int = 11
    steps: int = 3


# Every loss, activation and optimizer; narrow layers beside wide ones; broken blocks, tiles and pieces of a batch.
CASES = [
    Case((2, 70, 3), points=1, steps=10),
    Case((3, 130, 9, 4), "relu", loss="bce", optimizer="adamw"),
    Case((2, 20, 70, 66, 1), loss="l1", batch=70, points=90, steps=2),
    Case((40, 70, 3), "relu", batch=33, points=5),
]


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block is a whole layer: the interpreter takes its time for every block, however small."""
    set_tile(monkeypatch, triton_streamed.StreamedTile(128, 128, 128, 128, 4, 1))


def set_tile(monkeypatch: pytest.MonkeyPatch, tile: triton_streamed.StreamedTile) -> None:
    monkeypatch.setattr(triton_streamed, "STREAMED", dict.fromkeys(triton_streamed.STREAMED, tile))


def test_the_fit_in_small_blocks_is_the_fit_in_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two pieces of a batch, two tiles in the first one; broken blocks of rows, columns and terms in every product.
    task = make_task(Case((2, 70, 67, 3), points=150, steps=1), fields=1, eps=1.0)
    large = step_triton.run(task)
    set_tile(monkeypatch, triton_streamed.StreamedTile(128, 64, 32, 32, 4, 1))
    small = step_triton.run(task)
    assert rms(small.fields.flat() - large.fields.flat()) < 1e-5 * rms(large.fields.flat() - task.start.flat())
    assert np.allclose(small.curves, large.curves, rtol=1e-6)


def make_task(case: Case, fields: int = 2, first_id: int = 7, **overrides: Any) -> StepTask:
    return triton_laws.make_task(case, fields, first_id, **{"steps": case.steps, **overrides})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_fit_is_as_near_to_float64_as_torch_is(case: Case) -> None:
    task = make_task(case)
    assert triton_lanes.tier(task.start.spec, task.config).kernel is triton_streamed.fit_streamed
    exact, plain, result = step_torch.run(in_double(task)), step_torch.run(task), step_triton.run(task)
    allowed = 2 * rms(plain.fields.flat() - exact.fields.flat()) + FLOOR
    error = rms(result.fields.flat() - exact.fields.flat())
    assert error <= allowed, f"weights are {error:.2e} from float64, allowed {allowed:.2e}"
    moved = rms(exact.fields.flat() - task.start.flat())
    assert error < 1e-3 * moved, "the fit hardly moved"
    allowed = 2 * np.abs(plain.curves - exact.curves).max() + FLOOR
    assert np.abs(result.curves - exact.curves).max() <= allowed
    assert (result.steps == task.config.steps).all()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_every_precision_fits(precision: str) -> None:
    task = make_task(Case((2, 66, 17, 3), steps=4), fields=1, precision=precision)
    exact, result = step_torch.run(in_double(task)), step_triton.run(task)
    moved = rms(exact.fields.flat() - task.start.flat())
    allowed = {"fp32": 1e-4, "tf32": 0.05, "bf16": 0.2}[precision]
    assert rms(result.fields.flat() - exact.fields.flat()) <= allowed * moved


@pytest.mark.parametrize("case", [Case((2, 70, 67, 2), points=140), Case((13, 66, 1), "relu", "bce")], ids=str)
def test_gradients_agree_with_autograd_in_float64(case: Case) -> None:
    # The first Adam step with a huge eps is -lr * g / eps: the kernel's gradient, seen through its own update.
    task = make_task(case, fields=1, steps=1, eps=1e6, weight_decay=0.0)
    task = replace(task, lr=np.array([1e6], np.float32))
    flat = task.start.flat().double().requires_grad_()
    raw = forward_raw(FieldBatch.from_flat(task.start.spec, flat), task.encoded.double())
    per_field(case.loss, raw, task.targets.double()).sum().backward()
    gradient = task.start.flat().double() - step_triton.run(task).fields.flat().double()
    assert flat.grad is not None
    assert (gradient - flat.grad).abs().max() <= 1e-5 * flat.grad.abs().max()


@pytest.mark.parametrize("batch", [0, 9])
def test_a_field_does_not_depend_on_its_company(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 70, 17, 3), batch=batch, steps=2)
    together = step_triton.run(make_task(case, fields=3))
    alone = step_triton.run(make_task(case, fields=1, first_id=9))
    assert torch.equal(alone.fields.flat()[0], together.fields.flat()[2])
    assert np.array_equal(alone.curves[0], together.curves[2])
    monkeypatch.setattr(step_triton, "_part_size", lambda task, lanes: 2)
    parts = step_triton.run(make_task(case, fields=3))
    assert torch.equal(parts.fields.flat(), together.fields.flat())
    assert np.array_equal(parts.curves, together.curves)


def test_points_of_each_fields_own_are_read_from_their_place() -> None:
    task = make_task(Case((2, 66, 3), batch=7))
    result = step_triton.run(replace(task, encoded=torch.stack([task.encoded, task.encoded.flip(0)])))
    flipped = step_triton.run(replace(task, encoded=task.encoded.flip(0)))
    assert torch.equal(result.fields.flat()[0], step_triton.run(task).fields.flat()[0])
    assert torch.equal(result.fields.flat()[1], flipped.fields.flat()[1])


def test_a_field_stops_before_the_update_that_would_follow() -> None:
    case = Case((2, 66, 1), points=9)
    settings = {"steps": 12, "lr": 1e-4, "schedule": "constant"}
    free = step_triton.run(make_task(case, **settings))
    mse = 0.25 * free.curves  # values are 0.5 * raw + offset
    target = 1.001 * mse.min(axis=1).max()  # every field gets there, one of them not before its best step
    expected = [int(np.argmax(row <= target)) for row in mse]
    assert max(expected) > 0
    settings["target_psnr"] = float(-10 * np.log10(target))
    stopped = step_triton.run(make_task(case, **settings))
    assert stopped.steps.tolist() == expected
    assert step_torch.run(make_task(case, **settings)).steps.tolist() == expected
    for position, steps in enumerate(expected):
        assert np.array_equal(stopped.curves[position, : steps + 1], free.curves[position, : steps + 1])
        assert np.isnan(stopped.curves[position, steps + 1 :]).all()


def test_a_later_first_stop_is_kept_to_and_curves_are_thinned() -> None:
    result = step_triton.run(make_task(Case((2, 66, 1)), steps=8, target_psnr=0.1, min_steps=6, curve_every=4))
    assert (result.steps == 6).all()
    every = step_triton.run(make_task(Case((2, 66, 1)), steps=8))
    assert np.array_equal(result.curves, every.curves[:, [0, 4]])


def test_nan_shows_in_the_curve_and_stays_in_its_field() -> None:
    task = make_task(Case((2, 66, 3)), steps=3, target_psnr=10.0, min_steps=3)
    task.targets[0, 3, 1] = float("nan")
    result = step_triton.run(task)
    assert np.isnan(result.curves[0]).all()
    assert np.isfinite(result.curves[1]).all()
    assert result.steps.tolist() == [3, 3]


def test_memory_of_one_launch_counts_the_scratch_area() -> None:
    # 2 MB of gradients and activations a field: without them a launch would take many times as many fields.
    task = make_task(Case((2, 256, 256, 256, 3)), fields=1)
    scratch = triton_lanes.tier(task.start.spec, task.config).scratch
    assert scratch > task.start.spec.num_params
    assert step_triton._part_size(task, 1) * 4 * (scratch + 3 * task.start.spec.num_params) <= step_triton._BYTES
