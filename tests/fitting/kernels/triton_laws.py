"""Laws of the CUDA fitting kernels, for a GPU or for the interpreter, in which test_step_triton.py runs them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fitting.config import FitConfig, Loss, Optimizer, Precision
from fitting.kernels import halves_tiles, step_torch, step_triton
from fitting.kernels.task import StepResult, StepTask
from fitting.losses import per_field
from fitting.schedule import learning_rates
from neuralfields import inits
from neuralfields.batch import FieldBatch
from neuralfields.evaluate import forward_raw
from neuralfields.spec import FieldSpec

# Where torch's float32 run happens to hit the float64 one almost exactly, rounding of single weights (about 6e-8 of
# their size, twenty updates) is still allowed.
FLOOR = 1.5e-6
# What laws use that precision has no part in: the interpreter takes three times as long for the products of tf32x3.
ANY: Precision = "auto" if torch.cuda.is_available() else "fp32"
# The interpreter runs fields one after the other; that each is alone in its company has a law of its own.
FIELDS = 2 if torch.cuda.is_available() else 1
# In parts of two, more than there are lanes: one in the interpreter, two on a GPU.
COMPANY = 5 if torch.cuda.is_available() else 3


@dataclass(frozen=True)
class Case:
    dims: tuple[int, ...]
    activation: Literal["sine", "relu"] = "sine"
    loss: Loss = "mse"
    optimizer: Optimizer = "adam"
    batch: int = 0
    points: int = 37


# Every depth, loss, activation and optimizer; one, several and broken tiles; few and many inputs.
CASES = [
    Case((1, 5, 2), points=1),
    Case((2, 17, 3), optimizer="adamw"),
    Case((2, 17, 16, 1), "relu", batch=21, points=300),
    Case((3, 33, 7, 64, 4), loss="bce", points=70),
    Case((2, 20, 20, 20, 12, 1), loss="l1", batch=70),
    Case((3, 16, 16, 9, 16, 16, 2), "relu", optimizer="adamw"),
    Case((13, 24, 40, 1), "relu", loss="bce", batch=9),
    Case((40, 9, 3), optimizer="adamw", batch=33),
]


def fits(cases: list[Case], precisions: list[str]) -> list[tuple[Case, str]]:
    """Every case in every precision; in the interpreter every third in all but the first: only products see it."""
    rest = cases if torch.cuda.is_available() else cases[::3]
    return [(case, precisions[0]) for case in cases] + [(case, other) for other in precisions[1:] for case in rest]


def make_task(case: Case, fields: int = 2, first_id: int = 7, **overrides: Any) -> StepTask:
    """Targets depend on the field's id alone, so that a field can be fitted in any company."""
    spec = FieldSpec(
        in_dim=case.dims[0],
        out_dim=case.dims[-1],
        hidden=case.dims[1:-1],
        activation=case.activation,
        w0_first=20.0,
        w0_hidden=25.0,
        scale=(0.5, 0.25, 2.0, 1.0)[: case.dims[-1]],
    )
    settings: dict[str, Any] = {
        "steps": 20,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "curve_every": 1,
        "schedule": "cosine",
    }
    config = FitConfig(
        **{**settings, **overrides}, seed=2**32 - 5, loss=case.loss, optimizer=case.optimizer, batch=case.batch
    )
    ids = np.arange(first_id, first_id + fields, dtype=np.uint32)
    coords = torch.rand(case.points, case.dims[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    shape = (case.points, case.dims[-1])
    targets = torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(int(i))) for i in ids])
    start = inits.initial(spec, ids, "random")
    return StepTask(start, coords, targets, ids, None, config, learning_rates(config))


def in_double(task: StepTask) -> StepTask:
    config = replace(task.config, dtype="float64")
    start, encoded, targets = task.start.to(torch.float64), task.encoded.double(), task.targets.double()
    return replace(task, start=start, encoded=encoded, targets=targets, config=config)


def rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()


# Of torch's own distance from float64: three products of halves round three times where one product rounds once.
TIMES = {"fp32": 2, "tf32x3": 6}


@pytest.mark.parametrize(("case", "precision"), fits(CASES, list(TIMES)), ids=str)
def test_the_fit_is_as_near_to_float64_as_torch_is(case: Case, precision: Precision) -> None:
    task, times = make_task(case, FIELDS, precision=precision), TIMES[precision]
    plain = step_torch.run(replace(task, config=replace(task.config, precision="fp32")))
    exact, result = step_torch.run(in_double(task)), step_triton.run(task)
    allowed = times * rms(plain.fields.flat() - exact.fields.flat()) + FLOOR
    error = rms(result.fields.flat() - exact.fields.flat())
    assert error <= allowed, f"weights are {error:.2e} from float64, allowed {allowed:.2e}"
    moved = rms(exact.fields.flat() - task.start.flat())
    assert error < 1e-3 * moved, "the fit hardly moved"
    allowed = times * np.abs(plain.curves - exact.curves).max() + FLOOR
    off = np.abs(result.curves - exact.curves).max()
    assert off <= allowed, f"losses are {off:.2e} from float64, allowed {allowed:.2e}"
    assert (result.steps == task.config.steps).all()


@pytest.mark.parametrize("precision", step_triton.PRECISIONS)
def test_every_precision_fits(precision: str) -> None:
    task = make_task(Case((2, 17, 16, 3)), FIELDS, precision=precision)
    if precision == "mixed" and halves_tiles.tile(task.start.spec, precision) is None:
        pytest.skip(f"mixed precision: {halves_tiles.ACCEPTED}")
    exact, result = step_torch.run(in_double(task)), step_triton.run(task)
    moved = rms(exact.fields.flat() - task.start.flat())
    allowed = {"fp32": 1e-4, "tf32x3": 1e-4, "tf32": 0.05, "mixed": 0.05, "bf16": 0.2}[precision]
    assert rms(result.fields.flat() - exact.fields.flat()) <= allowed * moved


@pytest.mark.parametrize("case", [Case((2, 7, 5, 2), points=20), Case((13, 9, 1), "relu", "bce")], ids=str)
def test_gradients_agree_with_autograd_in_float64(case: Case) -> None:
    # The first Adam step with a huge eps is -lr * g / eps: the kernel's gradient, seen through its own update.
    task = make_task(case, fields=1, steps=1, eps=1e6, weight_decay=0.0, precision="tf32x3")
    task = replace(task, lr=np.array([1e6], np.float32))
    flat = task.start.flat().double().requires_grad_()
    raw = forward_raw(FieldBatch.from_flat(task.start.spec, flat), task.encoded.double())
    per_field(case.loss, raw, task.targets.double()).sum().backward()
    gradient = task.start.flat().double() - step_triton.run(task).fields.flat().double()
    assert flat.grad is not None
    assert (gradient - flat.grad).abs().max() <= 1e-5 * flat.grad.abs().max()


@pytest.mark.parametrize("batch", [0, 70])
def test_a_field_does_not_depend_on_its_company(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((2, 32, 17, 3), batch=batch)
    together = step_triton.run(make_task(case, fields=COMPANY, steps=2, precision=ANY))
    alone = step_triton.run(make_task(case, fields=1, first_id=9, steps=2, precision=ANY))
    assert torch.equal(alone.fields.flat()[0], together.fields.flat()[2])
    assert np.array_equal(alone.curves[0], together.curves[2])
    monkeypatch.setattr(step_triton, "_part_size", lambda task, lanes: 2)
    assert_equal(step_triton.run(make_task(case, fields=COMPANY, steps=2, precision=ANY)), together)


def assert_equal(a: StepResult, b: StepResult) -> None:
    assert torch.equal(a.fields.flat(), b.fields.flat())
    assert np.array_equal(a.steps, b.steps)
    assert np.array_equal(a.curves, b.curves, equal_nan=True)


def test_points_of_each_fields_own_are_the_shared_ones_when_they_are_equal() -> None:
    task = make_task(Case((2, 16, 3), batch=20), steps=2, precision=ANY)
    own = replace(task, encoded=task.encoded.expand(2, -1, -1))
    assert_equal(step_triton.run(own), step_triton.run(task))
    other = replace(task, encoded=torch.stack([task.encoded, task.encoded.flip(0)]))
    other_result = step_triton.run(other)
    assert torch.equal(other_result.fields.flat()[0], step_triton.run(task).fields.flat()[0])
    flipped = step_triton.run(replace(task, encoded=task.encoded.flip(0)))
    assert torch.equal(other_result.fields.flat()[1], flipped.fields.flat()[1])


def test_a_field_stops_before_the_update_that_would_follow() -> None:
    case = Case((2, 16, 1), points=9)
    settings: dict[str, Any] = {"steps": 12, "lr": 2e-2, "precision": ANY}
    free = step_triton.run(make_task(case, **settings))
    mse = 0.25 * free.curves  # values are 0.5 * raw + offset
    target_psnr = float(-10 * np.log10(mse[:, 6].mean()))
    expected = [int(np.argmax(row <= 10.0 ** (-target_psnr / 10.0))) for row in mse]
    assert 0 < min(expected) < max(expected)
    stopped = step_triton.run(make_task(case, **settings, target_psnr=target_psnr))
    assert stopped.steps.tolist() == expected
    assert step_torch.run(make_task(case, **settings, target_psnr=target_psnr)).steps.tolist() == expected
    for position, steps in enumerate(expected):
        assert np.array_equal(stopped.curves[position, : steps + 1], free.curves[position, : steps + 1])
        assert np.isnan(stopped.curves[position, steps + 1 :]).all()
        task = make_task(case, fields=1, first_id=7 + position, **settings)
        shorter = replace(task, config=replace(task.config, steps=steps))
        assert torch.equal(step_triton.run(shorter).fields.flat()[0], stopped.fields.flat()[position])


def test_a_later_first_stop_is_kept_to_and_curves_are_thinned() -> None:
    case, settings = Case((2, 16, 1)), {"steps": 8, "precision": ANY}
    result = step_triton.run(make_task(case, **settings, target_psnr=0.1, min_steps=5, curve_every=2))
    assert (result.steps == 5).all()
    every = step_triton.run(make_task(case, **settings))
    assert np.array_equal(result.curves[:, :3], every.curves[:, [0, 2, 4]])
    assert np.isnan(result.curves[:, 3]).all()


@pytest.mark.parametrize("loss", ["mse", "l1", "bce"])
def test_nan_shows_in_the_curve_and_stays_in_its_field(loss: Loss) -> None:
    task = make_task(Case((2, 16, 3), loss=loss), steps=2, target_psnr=10.0, min_steps=2, precision=ANY)
    task.targets[0, 3, 1] = float("nan")
    result = step_triton.run(task)
    assert np.isnan(result.curves[0]).all()
    assert np.isfinite(result.curves[1]).all()
    assert result.steps.tolist() == [2, 2]


def test_progress_counts() -> None:
    seen: list[tuple[int, int, float]] = []
    step_triton.run(make_task(Case((2, 16, 1)), steps=2), lambda *done: seen.append(done))
    assert seen[-1][:2] == (4, 2)
    assert 0 < seen[-1][2] < 1
